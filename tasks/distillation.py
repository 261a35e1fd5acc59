"""Distillation: how likely a teacher holds each token or label -> what a model learns (Hinton et al., arXiv:1503.02531).

A Tutor is a tuned model, whose word counts in part; Doubts are those of methods for tables, who labelled the synthetic rows.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from tasks.batching import Batch
from tasks.models import has_plain_head, load_model, logits_at
from tasks.tuning import Compression, Finetuning, Size


class Tutor:
    """A tuned model that a smaller one learns from.

    Args:
        folder: its model/.
    """

    def __init__(self, folder: Path, compression: Compression) -> None:
        self.model, self.compression = load_model(folder), compression
        self.plain_head = has_plain_head(self.model)

    def settings_of(self, finetuning: Finetuning) -> Finetuning:
        """What is declared of the training, for the student."""
        return finetuning.for_student(self.compression.student or Size())

    @torch.no_grad()
    def _logits(self, shown: Batch, where: Tensor) -> Tensor:
        device = self.model.device
        positions = None if shown.positions is None else shown.positions[:, :-1].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
            found: Tensor = logits_at(self.model, shown.input_ids[:, :-1].to(device), where.to(device), self.plain_head, positions)
        return found.float()

    def taught(self, losses: Tensor, logits: Tensor, shown: Batch, where: Tensor) -> Tensor:
        """The losses of a batch, a declared part of them the divergence from what this model says, in nats.

        Args:
            losses: (tokens,), against the samples.
            logits: (tokens, vocabulary), the student's; a base's embedding may have more rows, which are no tokens.
            shown: what the student was shown, token dropout included.
            where: (rows, longest - 1), True at the tokens.
        """
        weight, temperature = self.compression.teacher_weight, self.compression.temperature
        theirs = functional.log_softmax(self._logits(shown, where)[:, : logits.shape[1]] / temperature, dim=-1)
        ours = functional.log_softmax(logits.float() / temperature, dim=-1)
        apart = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
        return (1 - weight) * losses + weight * temperature**2 * apart


class Doubts:
    """The chances of the labels of rows that have no label of their own; see synthetic.py.

    Args:
        label_ids: the token of each label.
    """

    def __init__(self, label_ids: Sequence[int]) -> None:
        self.label_ids = torch.tensor(label_ids)

    def taught(self, losses: Tensor, logits: Tensor, shown: Batch, where: Tensor) -> Tensor:
        """The losses of a batch, those of doubtful labels by all their chances: less noise than a label that is drawn.

        Args:
            losses: (tokens,), against the samples.
            logits: (tokens, vocabulary).
            where: (rows, longest - 1), True at the tokens; at that of each label, too.
        """
        if shown.chances is None:
            return losses
        rows = (~shown.chances.isnan().any(dim=1)).nonzero()[:, 0]
        places = (where.flatten().cumsum(0) - 1).view(where.shape)[rows, shown.prompt_tokens[rows] - 1].to(losses.device)
        told = functional.log_softmax(logits[places].float(), dim=-1)[:, self.label_ids.to(losses.device)]
        return losses.index_put((places,), -(shown.chances[rows].to(losses.device) * told).sum(dim=1))
