"""Tuning: what a process.yaml may say of its model's size and training, with every default of it."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.spaces import Search
from tasks.terms import Declared

SEEDS = 2**32  # NumPy takes no larger one


class Size(Declared):
    """Size of a GPT made from scratch, in the words of GPT2Config."""

    n_layer: int = Field(4, ge=1)
    n_embd: int = Field(128, ge=8)
    n_head: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")
        return self

    @property
    def turns(self) -> bool:
        """Whether each head has an even width, as rotary positions need."""
        return self.n_embd // self.n_head % 2 == 0


class Lora(Declared):
    """Low-rank adapters, in the words of peft's LoraConfig."""

    r: int = Field(8, ge=1)
    lora_alpha: float = Field(16, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | None = None  # every linear layer when absent
    merged: bool = True  # into the base; else the adapter is published beside it, and only the adapter travels when it is tuned again


class Finetuning(Declared):
    """How the model is tuned, in the words of TrainingArguments where they exist; what is not given is settled by `tasks.budget`."""

    base: str = Field("scratch", min_length=1)  # or a hub id, a folder, or store:<name> of what was published here
    revision: str | None = None
    size: Size | None = None
    lora: Lora | None = None
    budget_minutes: float = Field(8, gt=0, le=10_000)  # on two cores; decides size and epochs by counting, never by the clock
    learning_rate: float | None = Field(None, gt=0)
    num_train_epochs: float | None = Field(None, gt=0)
    max_length: int = Field(512, ge=8)  # tokens, prompt and completion together
    max_new_tokens: int | None = Field(None, ge=1)  # the longest completion of the training set when absent
    tokens_per_batch: int | None = Field(None, ge=16)
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    label_smoothing_factor: float | None = Field(None, ge=0, lt=1)
    prompt_loss_weight: float | None = Field(None, ge=0, le=1)  # 0: the loss is on the completion only
    token_dropout: float | None = Field(None, ge=0, lt=1)
    bpe_dropout: float | None = Field(None, ge=0, lt=1)  # of a prompt's merges of bytes to tokens, the share left out each time it is shown
    value_swaps: float = Field(0.3, ge=0, le=1)  # of the values marked in a prompt, the share that is exchanged for others of the field
    invented_values: float = Field(0.3, ge=0, le=1)  # of the exchanged ones, where values are open, the share that is drawn at random
    paraphrases: tuple[str, ...] = ()  # such as "Hi, {message} Thanks.": words around a value of the prompt that change no answer
    synthetic_up_to: int = Field(8_000, ge=0, le=1_000_000)  # a table of fewer training samples is filled up with synthetic ones; 0: never
    dropout: float | None = Field(None, ge=0, lt=1)
    positions: Literal["learned", "rotary"] | None = None  # of a model from scratch: a GPT-2, or a GPT-NeoX, which sees distances
    neighbours: bool | None = None  # embeddings of a model from scratch begin with what stands near what in the training prompts
    ema_decay: float | None = Field(None, ge=0, lt=1)  # the average of the weights is what is kept; 0: the last ones are
    num_processes: int = Field(1, ge=1, le=64)  # that tune together on this machine, each with its part of every batch
    fsdp: bool = False  # the model is cut up among them: for one that does not fit on one device
    gradient_accumulation_steps: int = Field(1, ge=1)  # parts of a batch that are worked on one after the other: less memory, same step
    gradient_checkpointing: bool = False  # less memory still, a third more time
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    linear: bool = True  # a regression on words answers with a model of labels or forms, where that helps on the validation split
    evaluations: int = Field(8, ge=1)  # times the validation loss is taken in a run
    early_stopping_patience: int | None = Field(3, ge=1)  # evaluations in a row whose loss is clearly above the least
    seed: int = Field(7, ge=0, lt=SEEDS)
    search: Search = Search()

    def for_student(self, size: Size) -> Self:
        """The same for a smaller model from scratch; the pace of a base's tuning says nothing about it."""
        if self.base == "scratch":
            return self.model_copy(update={"size": size})
        left_open = dict.fromkeys(("revision", "lora", "learning_rate", "num_train_epochs"))
        return self.model_copy(update={"base": "scratch", "size": size} | left_open)

    @model_validator(mode="after")
    def _has_a_base_to_adapt(self) -> Self:
        if self.lora and self.base == "scratch":
            raise ValueError("lora needs a base model to adapt; with base: scratch leave it out")
        return self

    @model_validator(mode="after")
    def _turns_pairs(self) -> Self:
        if self.positions == "rotary" and self.size and not self.size.turns:
            raise ValueError("positions: rotary needs a size whose n_embd is an even multiple of n_head")
        return self

    @model_validator(mode="after")
    def _has_processes_to_cut_it_up_among(self) -> Self:
        if self.fsdp and self.num_processes == 1:
            raise ValueError("fsdp cuts a model up among several processes; declare finetuning.num_processes, too")
        return self


class Loss(Declared):
    """How much worse a compressed model may be than the model that it comes from, by one measure on the validation split."""

    metric: str
    at_most: float = Field(ge=0)  # in the measure's own unit, whichever way it points


class Compression(Declared):
    """Ways to a model that answers faster; each is taken only when it passes the gate against the model that was tuned."""

    student: Size | None = None  # a smaller model from scratch, that learns from the samples and from what the tuned one says of them
    teacher_weight: float = Field(0.5, ge=0, le=1)  # of the tuned model's word against the samples'
    temperature: float = Field(2.0, gt=0)  # both distributions are flattened by it, so that unlikely tokens teach, too
    quantization: Literal["int8"] | None = None  # of the weights that CTranslate2 writes with
    gate: tuple[Loss, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _compresses(self) -> Self:
        if self.student is None and self.quantization is None:
            raise ValueError("declare student: {n_layer: …, n_embd: …, n_head: …}, or quantization: int8, or both")
        return self


class Settled(Finetuning):
    """The same with nothing left open."""

    size: Size = Size()
    learning_rate: float = Field(1e-3, gt=0)
    num_train_epochs: float = Field(8, gt=0)
    tokens_per_batch: int = Field(4096, ge=16)
    label_smoothing_factor: float = Field(0.0, ge=0, lt=1)
    prompt_loss_weight: float = Field(0.0, ge=0, le=1)
    token_dropout: float = Field(0.0, ge=0, lt=1)
    bpe_dropout: float = Field(0.0, ge=0, lt=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    positions: Literal["learned", "rotary"] = "learned"
    neighbours: bool = False
    ema_decay: float = Field(0.0, ge=0, lt=1)
