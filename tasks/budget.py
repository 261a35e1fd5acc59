"""Budget: the training samples and the declared minutes -> a model's size, its epochs and all that a declaration leaves open.

Decided by counting, never by the clock: the same samples give the same settings on every machine. RECIPES were chosen on
splits cut from the training sets of public data, or taken from field notes; data/kinds.md tells what did not help.
"""

from dataclasses import dataclass, replace
from typing import Any

from tasks.bases import STORED
from tasks.tuning import Finetuning, Settled, Size

# Whole runs on two cores of an AMD without bfloat16, with nothing beside them, do 80e9 to 110e9 of what `_weighed` counts, machines with it
# more. So eight declared minutes are eight to ten on the slower ones, whatever the size of the model.
OPERATIONS_PER_SECOND = 104e9
OPERATIONS = 6  # for each weight and token: two forward, four backward
ATTENTION, MLP = 4, 8  # weights of a layer, times the square of its width
CHANNEL = 1_500  # weights, whose work takes as long as all else that a layer does to one channel of a token: norms, GELU, dropout
ATTENDED, FURTHER, NEAR = 7, 2.3, 128  # the same of a channel and each token of its row, and of those beyond so many
LOGIT = 75  # the same of a word of the vocabulary, wherever a token is predicted: its chance and its gradient
STEP = 400e6  # the same of a whole step: the optimizer, the average, and what begins hundreds of kernels
SIZES = tuple(
    Size(n_layer=layers, n_embd=width, n_head=heads)
    for layers, width, heads in ((2, 64, 4), (3, 96, 4), (3, 128, 4), (4, 128, 4), (4, 160, 5), (4, 192, 6), (6, 192, 6), (6, 256, 8))
)
FLAT = tuple(size for size in SIZES if (size.n_layer, size.n_embd) != (6, 192))  # for fields: epochs are worth more than two layers
SHALLOW = tuple(Size(n_layer=2, n_embd=width, n_head=max(4, width // 32)) for width in (64, 96, 128, 160, 192, 256, 320))  # for labels
STORED_SIZE = SIZES[4]  # about that of a base that was made here in its eight minutes
FEW_SAMPLES = 2_000  # up to which the model is one of the first SMALL sizes: more would be learned by heart
SMALL = {"label": 5, "fields": 5, "text": 2}
ENOUGH_SHOWN = 30_000  # samples times epochs, below which a training is too short to learn words from their parts, or with CHOSEN_DROPOUT
LONG_PROMPT = 30  # tokens on average: sentences of a chat have some 20, a line of a Chinese newspaper 40
FEW_LABELS = 10  # below which smoothing would only blur how sure a model is
EPOCHS = {"label": 12.0, "fields": 9.0, "text": 3.5}  # the largest model that sees its samples so often is taken
SHOWN = {"label": 90_000, "fields": 40_000, "text": 0}  # samples times epochs that are needed where samples are few
FEW_EPOCHS = 150.0  # of few samples at most
MOST_EPOCHS = 40.0
TABLE_EPOCHS, TABLE_SHOWN = 10.0, 16_000  # of a table at most; of one that is not filled up, samples times epochs
ENOUGH_TOKENS = 20  # for each weight: Hoffmann et al. 2022, "Training compute-optimal large language models"
SMALL_TABLE = 8_000  # rows, synthetic ones included, up to which the first size is enough
STEPS_PER_EPOCH = 200  # about; batches are between these sizes
ENOUGH_STEPS = 2_500  # of texts, which are long and seen a few times only: smaller batches where there were fewer
SMALLEST_BATCH, LARGEST_BATCH, ROWS = 512, 4096, 16
USUAL_BATCH = 1024  # tokens, for which SCRATCH_RATE was chosen
TUNED_EPOCHS = 3.0  # of a base model

RECIPES: dict[str, dict[str, Any]] = {  # from scratch
    "label": {
        "label_smoothing_factor": 0.1,
        "prompt_loss_weight": 0.3,
        "token_dropout": 0.1,
        "bpe_dropout": 0.1,
        "dropout": 0.2,
        "ema_decay": 0.999,
    },
    "fields": {"label_smoothing_factor": 0.05, "prompt_loss_weight": 0.0, "token_dropout": 0.1, "dropout": 0.1, "ema_decay": 0.999},
    "text": {"label_smoothing_factor": 0.0, "prompt_loss_weight": 0.0, "token_dropout": 0.0, "dropout": 0.1, "ema_decay": 0.999},
}
CHOSEN_DROPOUT = 0.2  # of fields some of which are chosen for what a whole text says, as labels are
PROMPT_MOST = 3.0  # a prompt's tokens together against those of its answer: a long prompt must not drown a short answer
PROMPT_SHARE = 0.5  # of a prompt's tokens at most, drawn anew in each step, that are predicted: half the work for the same lesson
SCRATCH_RATE, STORED_RATE, BASE_RATE, LORA_RATE = 2e-3, 1e-3, 1e-4, 5e-4
BASE: dict[str, Any] = {"label_smoothing_factor": 0.0, "prompt_loss_weight": 0.0, "token_dropout": 0.0, "dropout": 0.1}


@dataclass(frozen=True, slots=True)
class Counts:
    """What is known of the training samples before training."""

    samples: int
    tokens: int  # of one epoch, a second reading included
    prompt_tokens: int  # of them, read for the first time
    vocabulary: int
    labels: int = 0
    table: bool = False  # prompts of columns only, without any text
    chosen: bool = False  # some field's value is chosen, not copied
    prompt_loss_weight: float | None = None  # as declared

    def predicted(self, kind: str) -> float:
        """Tokens of one epoch whose prediction counts: answers, marks, and a part of the prompts where a label alone would teach little."""
        answers, weight = self.tokens - self.prompt_tokens, self.prompt_loss_weight
        return answers + drawn(recipe_of(kind, self)["prompt_loss_weight"] if weight is None else weight, self.prompt_tokens, answers)


def drawn(prompt_loss_weight: float, prompt_tokens: float, answers: float) -> float:
    """How many of the prompts' tokens are predicted; each stands for 1 / PROMPT_SHARE of them.

    Args:
        answers: what the tokens of the answers count together.
    """
    if not prompt_loss_weight:
        return 0.0
    return PROMPT_SHARE * min(prompt_tokens, PROMPT_MOST * answers / prompt_loss_weight)


def settle(settings: Finetuning, kind: str, counts: Counts) -> Settled:
    """The settings of one training, what is declared first."""
    counts = replace(counts, prompt_loss_weight=settings.prompt_loss_weight)
    given = {name: value for name, value in settings.model_dump(exclude={"search"}).items() if value is not None}
    if settings.base.startswith(STORED):
        afforded = min(fewest_epochs(kind, counts), epochs_for(settings.budget_minutes, STORED_SIZE, kind, counts))
        stored = {"learning_rate": STORED_RATE, "num_train_epochs": round(max(EPOCHS[kind], afforded), 2)}
        return Settled.model_validate(recipe_of(kind, counts) | _by_length(kind, stored | given, counts) | stored | _batch(counts) | given)
    if settings.base != "scratch":
        rate = LORA_RATE if settings.lora else BASE_RATE
        return Settled.model_validate(BASE | {"learning_rate": rate, "num_train_epochs": TUNED_EPOCHS} | _batch(counts) | given)
    size = settings.size or size_for(settings.budget_minutes, kind, counts)
    found: dict[str, Any] = {"size": size, "num_train_epochs": epochs_for(settings.budget_minutes, size, kind, counts)}
    if not size.turns:
        found["positions"] = "learned"
    most = counts.tokens * (found | given)["num_train_epochs"] / ENOUGH_STEPS if kind == "text" else LARGEST_BATCH
    found |= _batch(counts, most)
    found["learning_rate"] = _rate(kind, (found | given)["tokens_per_batch"])
    return Settled.model_validate(recipe_of(kind, counts) | _by_length(kind, found | given, counts) | found | given)


def _rate(kind: str, tokens_per_batch: int) -> float:
    """The learning rate from scratch; of texts, it grows with the root of the batch."""
    return SCRATCH_RATE * (max(1.0, tokens_per_batch / USUAL_BATCH) ** 0.5 if kind == "text" else 1.0)


def _by_length(kind: str, settings: dict[str, Any], counts: Counts) -> dict[str, Any]:
    """What only a long training can afford: words that are split otherwise each time, and more dropout for chosen fields."""
    if counts.samples * settings["num_train_epochs"] < ENOUGH_SHOWN:
        return {"bpe_dropout": 0.0}
    return {"dropout": CHOSEN_DROPOUT} if kind == "fields" and counts.chosen else {}


def recipe_of(kind: str, counts: Counts) -> dict[str, Any]:
    """What is not declared, from scratch: few labels are not smoothed, of a table only the answer is learned.

    In long prompts, as Chinese ones are, whose tokens are characters, fields are found by distances: there are too many positions to learn
    each by itself.
    """
    found = dict(RECIPES[kind])
    if kind == "fields":
        long = counts.prompt_tokens >= LONG_PROMPT * max(1, counts.samples)
        found |= {"positions": "rotary" if long else "learned", "neighbours": long or counts.samples <= FEW_SAMPLES}
    if kind == "label" and counts.labels < FEW_LABELS:
        found["label_smoothing_factor"] = 0.0
    if kind == "label" and counts.table:
        found["prompt_loss_weight"] = 0.0
    return found


def sizes_for(kind: str) -> tuple[Size, ...]:
    """The sizes among which one is chosen, from small to large."""
    return {"label": SHALLOW, "fields": FLAT}.get(kind, SIZES)


def size_for(minutes: float, kind: str, counts: Counts) -> Size:
    """The largest model that can see its samples often enough; the smallest where not even that can.

    Samples that are too many to be seen twice are no fewer for it: of such the largest model is taken that reads ENOUGH_TOKENS.
    """
    sizes = sizes_for(kind)
    if counts.samples <= (SMALL_TABLE if counts.table else FEW_SAMPLES):
        sizes = sizes[: 1 if counts.table else SMALL[kind]]
    epochs = {size: _epochs(minutes, size, kind, counts) for size in sizes}
    fitting = [size for size in sizes if epochs[size] >= fewest_epochs(kind, counts)]
    if not fitting and epochs[sizes[0]] < 2:
        fitting = [size for size in sizes if epochs[size] * counts.tokens >= ENOUGH_TOKENS * _body(size)]
    return (fitting or sizes[:1])[-1]


def fewest_epochs(kind: str, counts: Counts) -> float:
    """How often the largest model must be able to see its samples: where they are few, often."""
    return EPOCHS[kind] if counts.table else max(EPOCHS[kind], min(FEW_EPOCHS, SHOWN[kind] / max(1, counts.samples)))


def epochs_for(minutes: float, size: Size, kind: str, counts: Counts) -> float:
    """Epochs that fit into the minutes, up to a bound; a part of one where the samples are many."""
    most = max(MOST_EPOCHS, fewest_epochs(kind, counts))
    if counts.table:
        most = max(TABLE_EPOCHS, min(MOST_EPOCHS, TABLE_SHOWN / max(1, counts.samples)))
    return max(0.01, round(min(most, _epochs(minutes, size, kind, counts)), 2))


def _epochs(minutes: float, size: Size, kind: str, counts: Counts) -> float:
    return minutes * 60 * OPERATIONS_PER_SECOND / (OPERATIONS * max(1.0, _weighed(size, kind, counts)))


def _weighed(size: Size, kind: str, counts: Counts) -> float:
    """How often a weight meets a token in one epoch, or what takes as long; the last layer's MLP and the head meet only what predicts."""
    predicted, channels = counts.predicted(kind), size.n_layer * size.n_embd
    length = counts.tokens / max(1, counts.samples)
    attended = channels * (ATTENDED * min(length, NEAR) + FURTHER * max(0.0, length - NEAR))
    spared = MLP * size.n_embd**2 * (counts.tokens - predicted)
    steps = counts.tokens / _batch(counts)["tokens_per_batch"]
    everywhere = (_body(size) + CHANNEL * channels + attended) * counts.tokens
    return everywhere - spared + counts.vocabulary * (size.n_embd + LOGIT) * predicted + STEP * steps


def _body(size: Size) -> int:
    """Weights without embeddings."""
    return (ATTENTION + MLP) * size.n_layer * size.n_embd**2


def _batch(counts: Counts, most: float = LARGEST_BATCH) -> dict[str, int]:
    """Tokens of a batch: small steps for small sets, and never just a few samples, whatever most says."""
    length = counts.tokens / max(1, counts.samples)
    wanted = max(SMALLEST_BATCH, ROWS * length, min(most, counts.tokens / STEPS_PER_EPOCH))
    return {"tokens_per_batch": int(min(LARGEST_BATCH, wanted))}
