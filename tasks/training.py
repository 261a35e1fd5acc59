"""Training: a model and token rows -> the same model, tuned; can be stopped at any step and taken up again to the same bits.

Every random choice is decided by (seed, epoch) or (seed, step), never by what was drawn before; so a checkpoint holds
no random state, and a tuning that was killed ends as one that was not.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infra.scratch import scratch
from tasks.averaging import Average
from tasks.batching import WINDOW_BATCHES, Batch, Rework, TokenRows, answers_at, by_length, drop_tokens, marks_at, plan, reworked, wanted_in
from tasks.budget import PROMPT_SHARE, drawn
from tasks.checkpoints import Checkpoint, Checkpoints
from tasks.kernels import cross_entropy, quicken
from tasks.models import Gpt, has_plain_head, logits_at, plain, seeded, uses_bf16
from tasks.parallel import Team
from tasks.tuning import Settled

CHECKPOINT_SECONDS = 60.0
VALIDATION_ROWS = 1_000  # enough to see the loss turn, cheap enough to look often
MARK_WEIGHT = 0.2  # of a mark against a written token: most marks say that there is nothing, and they are many
# A loss up to so many times the least is as good: the last steps, at a falling rate, still find more right answers, while a few wrong ones
# grow surer. data/kinds.md tells what it gains.
AS_GOOD = 1.1
SEED_STRIDE = 1_000_003  # seeds of neighbouring runs do not meet
RANK_STRIDE = 2**56  # nor do those of processes that tune together
ALONE = Team()
OWN = "weight"  # of a checkpoint that holds the average as its weights: those that are trained


class Teacher(Protocol):
    """Has an opinion of its own on each wanted token."""

    def taught(self, losses: Tensor, logits: Tensor, shown: Batch, where: Tensor) -> Tensor:
        """The losses (tokens,) of a batch, where the teacher's word counts, too; `logits` are the student's (tokens, vocabulary)."""
        ...


class LossError(ValueError):
    """The loss is no longer a number."""


@dataclass
class Progress:
    """How far a tuning is: all that decides how it goes on, beside weights and moments."""

    step: int = 0
    tokens: int = 0  # without padding
    loss_sum: float = 0.0  # since the last evaluation
    loss_steps: int = 0
    least_loss: float | None = None  # of the validation rows
    best_step: int | None = None  # the last one whose loss was as good as the least
    best_loss: float | None = None  # its loss
    worse_evaluations: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def judge(self, loss: float) -> None:
        """Whether the weights of this step are those to keep, by their loss on the validation rows."""
        self.least_loss = loss if self.least_loss is None else min(loss, self.least_loss)
        if loss <= self.least_loss * AS_GOOD:
            self.best_step, self.best_loss, self.worse_evaluations = self.step, loss, 0
        else:
            self.worse_evaluations += 1


def learning_rate(settings: Settled, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero; `step` counts from 0."""
    warmup = math.ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def targets(batch: Batch, prompt_loss_weight: float = 0.0, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Which positions predict a token that counts, and how much each counts.

    Args:
        prompt_loss_weight: of a prompt's token against one of its completion, as long as the prompts weigh no more than PROMPT_MOST
            times the completions; only a part of them is drawn, and weighs as much as all of them.
        generator: draws that part.

    Returns:
        Mask (rows, longest - 1), True where a target is predicted; and the weights of the targets, in order: a completion's
        token counts 1, a mark MARK_WEIGHT, over their sum.
    """
    answer = answers_at(batch)
    values = torch.where(marks_at(batch)[:, :-1], MARK_WEIGHT, 1.0)
    where = answer
    if prompt_loss_weight:
        prompt = torch.arange(1, batch.input_ids.shape[1]) < batch.prompt_tokens[:, None]
        tokens = int(prompt.sum())
        share = drawn(prompt_loss_weight, tokens, float(values[answer].sum())) / max(1, tokens)
        chosen = prompt & (torch.rand(prompt.shape, generator=generator) < share)
        where = answer | chosen
        values = torch.where(chosen, prompt_loss_weight / PROMPT_SHARE, values)
    weights = values[where]
    return where, weights / weights.sum()


def optimizer_of(model: nn.Module, settings: Settled) -> torch.optim.AdamW:
    """AdamW over what is trained; norms, biases and embeddings are not pulled towards zero."""
    embeddings = {id(weight) for module in model.modules() if isinstance(module, nn.Embedding) for weight in module.parameters()}
    trained = [weight for _, weight in trained_weights(model)]
    decayed = [weight for weight in trained if weight.ndim > 1 and id(weight) not in embeddings]
    others = [weight for weight in trained if weight.ndim <= 1 or id(weight) in embeddings]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)


def trained_weights(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and weights that training changes."""
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def schedule(lengths: np.ndarray[Any, np.dtype[Any]], settings: Settled) -> list[int]:
    """Steps of each epoch; the last one may be a part."""
    epochs = math.ceil(settings.num_train_epochs)
    counts = [len(plan(lengths, settings.tokens_per_batch, settings.seed, epoch)) for epoch in range(epochs)]
    counts[-1] = max(1, math.ceil(counts[-1] * (settings.num_train_epochs - (epochs - 1))))
    return counts


class Tuning:
    """One tuning under way."""

    def __init__(
        self,
        model: Gpt,
        rows: TokenRows,
        validation: TokenRows,
        settings: Settled,
        eos: int,
        checkpoints: Checkpoints,
        rework: Rework | None = None,
        team: Team = ALONE,
        teachers: Sequence[Teacher] = (),
    ) -> None:
        self.team, self.teachers = team, teachers
        self.model, self.gpt, self.device = model, plain(model), next(model.parameters()).device
        self.rows, self.validation, self.settings, self.eos = rows, validation, settings, eos
        self.checkpoints, self.progress, self.rework = checkpoints, Progress(), rework
        self.best: Path | None = None  # the best weights, in a file of this run's own: another run may clear the checkpoints
        self.optimizer = optimizer_of(model, settings)
        self.average = Average(trained_weights(model), settings.ema_decay) if settings.ema_decay else None
        self.plain_head = not team.sharded and has_plain_head(self.gpt)  # what is cut up can only be asked as a whole
        self.bf16 = uses_bf16(settings, model)
        quicken(self.gpt)
        self.counts = schedule(rows.lengths, settings)
        self.steps = sum(self.counts)
        self.evaluate_every = math.ceil(self.steps / settings.evaluations)

    def run(self, on_step: Callable[[Progress], None], checkpoint_seconds: float = CHECKPOINT_SECONDS) -> Progress:
        """Go on from the newest checkpoint to the end, or until the validation loss rises; the best weights stay in the model.

        Args:
            on_step: is shown the progress after each step.
        """
        with scratch() as folder, seeded(self.settings.seed):
            self.best = folder / "best.safetensors"
            self.restore()
            saved = time.monotonic()
            for batch in self._batches():
                if self.stopped_early:
                    break
                self.step(batch)
                evaluated = self._evaluate_when_due()
                if self.team.agreed(evaluated or time.monotonic() - saved >= checkpoint_seconds):
                    self.save()
                    saved = time.monotonic()
                on_step(self.progress)
            self._take_best()
        return self.progress

    @property
    def stopped_early(self) -> bool:
        """Whether the validation loss has been clearly above its least for as many evaluations as declared."""
        patience = self.settings.early_stopping_patience
        return patience is not None and self.progress.worse_evaluations >= patience

    @property
    def epoch(self) -> float:
        """Epochs done, the last one in part."""
        done = self.progress.step
        for number, count in enumerate(self.counts):
            if done < count:
                return number + done / count
            done -= count
        return self.settings.num_train_epochs

    def _batches(self) -> Iterator[Batch]:
        """The batches that are still to come, in their order."""
        skip = self.progress.step
        for epoch, count in enumerate(self.counts):
            if skip < count:
                order = plan(self.rows.lengths, self.settings.tokens_per_batch, self.settings.seed, epoch)
                yield from self._shown(order[:count], epoch, skip)
            skip = max(0, skip - count)

    def _shown(self, order: Sequence[np.ndarray[Any, np.dtype[Any]]], epoch: int, skip: int) -> Iterator[Batch]:
        """The batches of an epoch but for the first `skip`; what is drawn for a window of them is decided by epoch and window alone."""
        if self.rework is None:
            yield from map(self.rows.batch, order[skip:])
            return
        for window in range(skip // WINDOW_BATCHES, math.ceil(len(order) / WINDOW_BATCHES)):
            start, random = window * WINDOW_BATCHES, np.random.default_rng((self.settings.seed, epoch, window + 1))
            yield from reworked(self.rows, order[start : start + WINDOW_BATCHES], self.rework, random)[max(0, skip - start) :]

    def step(self, batch: Batch) -> None:
        """One step of the optimizer.

        Raises:
            LossError: the loss is no longer a number; nothing of this step is kept.
        """
        settings, progress = self.settings, self.progress
        torch.manual_seed(settings.seed * SEED_STRIDE + progress.step + self.team.rank * RANK_STRIDE)
        shown, generator = batch, torch.Generator().manual_seed(settings.seed * SEED_STRIDE + progress.step)
        if settings.token_dropout:
            shown = drop_tokens(batch, settings.token_dropout, self.eos, generator)
        self.model.train()
        where, weights = targets(batch, settings.prompt_loss_weight, generator)
        value = self._gradients(shown, wanted_in(batch), where, weights)
        if not math.isfinite(value):
            raise LossError(
                f"the loss is {value} at step {progress.step + 1} of {self.steps}; lower finetuning.learning_rate or max_grad_norm"
            )
        self._descend()
        progress.step += 1
        if self.average:
            self.average.take(progress.step)
        progress.tokens += int(batch.lengths.sum())
        progress.loss_sum += value
        progress.loss_steps += 1

    def _gradients(self, shown: Batch, wanted: Tensor, where: Tensor, weights: Tensor) -> float:
        """Gradients of the loss of a whole batch, each process from its own rows and part by part; that loss."""
        placed = torch.zeros(where.shape, dtype=weights.dtype).masked_scatter_(where, weights)
        total = 0.0
        for rows, counts in self.team.parts(len(where), self.settings.gradient_accumulation_steps):
            mask = where[rows]
            losses = self._losses(shown.part(rows), wanted[rows][mask], mask, self.settings.label_smoothing_factor)
            loss = counts * (losses * placed[rows][mask].to(self.device)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return self.team.summed(total)[0]

    def _descend(self) -> None:
        rate = learning_rate(self.settings, self.progress.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        weights = [weight for _, weight in trained_weights(self.model)]
        self.team.sum_gradients(weights)
        nn.utils.clip_grad_norm_(weights, self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _losses(self, shown: Batch, wanted: Tensor, where: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy in nats of each wanted token; the last position predicts nothing and is left out."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            positions = None if shown.positions is None else shown.positions[:, :-1].to(self.device)
            logits = logits_at(self.gpt, shown.input_ids[:, :-1].to(self.device), where.to(self.device), self.plain_head, positions)
        losses = cross_entropy(logits, wanted.to(self.device), smoothing)
        for teacher in self.teachers if self.model.training else ():
            losses = teacher.taught(losses, logits, shown, where)
        return losses

    def _evaluate_when_due(self) -> bool:
        progress = self.progress
        if progress.step % self.evaluate_every and progress.step != self.steps:
            return False
        loss = self.validation_loss() if len(self.validation) else None
        rate = learning_rate(self.settings, progress.step - 1, self.steps)
        entry = {
            "step": progress.step,
            "epoch": round(self.epoch, 4),
            "loss": progress.loss_sum / progress.loss_steps,
            "learning_rate": rate,
        }
        progress.history.append(entry if loss is None else entry | {"validation_loss": loss})
        progress.loss_sum, progress.loss_steps = 0.0, 0
        if loss is not None:
            progress.judge(loss)
        return True

    @property
    def kept(self) -> dict[str, Tensor]:
        """The weights that would stay if the tuning ended now: the average, where there is one."""
        return self.average.weights if self.average else {name: weight.detach() for name, weight in trained_weights(self.model)}

    def _averaged(self) -> AbstractContextManager[None]:
        return self.average.shown() if self.average else nullcontext()

    def validation_loss(self) -> float:
        """Mean loss of the completions' tokens in nats, on at most VALIDATION_ROWS rows, always the same ones.

        Raises:
            LossError: it is no number.
        """
        count = len(self.validation)
        chosen = np.sort(np.random.default_rng(self.settings.seed).permutation(count)[:VALIDATION_ROWS])
        self.model.eval()
        total, tokens = 0.0, 0.0
        with self._averaged(), torch.no_grad():
            batches = list(by_length(self.validation.lengths[chosen].tolist(), self.settings.tokens_per_batch))
            for indices, counts in self.team.shares(batches):
                batch = self.validation.batch(chosen[indices])
                where, _ = targets(batch)
                total += counts * float(self._losses(batch, wanted_in(batch)[where], where).sum())
                tokens += counts * int(where.sum())
        total, tokens = self.team.summed(total, tokens)
        if not math.isfinite(total):
            raise LossError(f"the validation loss is {total} at step {self.progress.step}; lower finetuning.learning_rate")
        return total / max(1, tokens)

    def save(self) -> None:
        """Store a checkpoint; of the older ones only the best stays. Of several processes the first one does so for all."""
        names = {id(weight): name for name, weight in trained_weights(self.model)}
        moments = {
            f"{names[id(weight)]}/{key}": value
            for group in self.optimizer.param_groups
            for weight in group["params"]
            for key, value in self.optimizer.state[weight].items()
        }
        if self.average:
            moments |= {f"{name}/{OWN}": weight.detach() for name, weight in trained_weights(self.model)}
        kept, moments, best = self.team.whole(self.kept), self.team.whole(moments), self.progress.best_step
        if self.team.rank:
            return
        if best == self.progress.step and self.best:
            save_file({name: weight.cpu().contiguous() for name, weight in kept.items()}, self.best)
        checkpoint = Checkpoint(self.progress.step, kept, moments, asdict(self.progress))
        self.checkpoints.save(checkpoint, keep=() if best is None else (best,))

    def restore(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        found = self.checkpoints.newest()
        if found is None:
            return
        self._take({name: found.optimizer[f"{name}/{OWN}"] for name in found.weights} if self.average else found.weights)
        if self.average:
            self.average.restore({name: self.team.place(held, found.weights[name]) for name, held in self.average.weights.items()})
        for name, weight in trained_weights(self.model):
            moments = {key: found.optimizer[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[weight] = {key: self.team.place(weight, value) for key, value in moments.items()}
        self.progress = Progress(**found.state)
        if self.progress.best_step is not None and self.best and (best := self.checkpoints.weights(self.progress.best_step)):
            save_file(best, self.best)

    def _take(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in trained_weights(self.model):
                weight.copy_(self.team.place(weight, weights[name]))

    def _take_best(self) -> None:
        best = self.progress.best_step
        if best is None or best == self.progress.step or (self.team.rank and not self.team.sharded):
            self._take(self.kept)
            return
        if self.team.rank:  # what it holds of them comes from the first process
            self._take({name: torch.empty(weight.shape) for name, weight in trained_weights(self.model)})
            return
        if self.best is None or not self.best.exists():
            raise FileNotFoundError(f"{self.checkpoints.prefix}: the best weights (step {best}) are gone; start again")
        self._take(load_file(self.best))
