"""Vocabulary: texts -> a byte-level BPE tokenizer; or a base model's own.

Every text is encoded to tokens and decoded to the same text, whatever its script: the smallest tokens are the 256 bytes.
Digits stand alone, one token each. An amount of money is then spelled alike wherever it stands, so copying it is one
skill for all numbers, and no number is a rare token.
"""

from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tasks.bases import base_folder

EOS = "<|endoftext|>"
SMALLEST = 256  # tokens: every byte
CHARACTER = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]"  # of a script written without blanks


def train_vocabulary(texts: Iterable[str], size: int, special: Sequence[str] = (), characters: bool = False) -> Tokenizer:
    """A byte-level BPE tokenizer learned from texts; the same texts give the same tokenizer.

    Args:
        texts: read once, streamed; only what the model may see in training.
        size: tokens in all, the special ones included; fewer come out when the texts are few.
        special: tokens that are never split, such as one for each label; EOS is id 0 and they follow it in their order.
        characters: no token spans two Chinese characters, so that a value in a text begins and ends with a token.

    Raises:
        ValueError: the size does not hold the bytes and the special tokens.
    """
    tokens = list(dict.fromkeys((EOS, *special)))
    if mistake := too_small(size, len(tokens) - 1):
        raise ValueError(mistake)
    tokenizer = Tokenizer(models.BPE())
    digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    alone = [pre_tokenizers.Split(Regex(CHARACTER), "isolated")] if characters else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, *alone, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=tokens, initial_alphabet=alphabet, min_frequency=2, max_token_length=32, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return as_written(tokenizer)


def too_small(size: int, labels: int) -> str | None:
    """Why a vocabulary cannot have this size; None when it can.

    Args:
        labels: tokens that are a label each.
    """
    needed = SMALLEST + 1 + labels
    reason = f"{SMALLEST} bytes, the end of the text and {labels} labels need {needed} or more"
    return f"sample.vocabulary_size is {size}; {reason}" if size < needed else None


def base_tokenizer(base: str, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a base model: a folder that holds tokenizer.json, or a hub id.

    Raises:
        ValueError: there is no such folder, it has no tokenizer.json, or the hub has no such model or cannot be reached.
    """
    if folder := base_folder(base):
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ValueError(f"finetuning.base: {file} is missing; save the base model with its fast tokenizer")
        return as_written(Tokenizer.from_file(str(file)))
    try:
        return as_written(Tokenizer.from_pretrained(base, revision=revision or "main"))
    except Exception as error:  # the library raises plain Exception for a missing file and for a missing network
        raise ValueError(f"finetuning.base {base!r} is neither a folder nor a model that the hub gave: {error}") from None


def as_written(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, set to read special tokens in a text as plain text: what a customer writes must never become a label or an end."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def completion_ids(tokenizer: Tokenizer, completion: str, label_tokens: bool) -> list[int]:
    """Tokens of a completion: the label's one token, or the completion spelled out.

    Raises:
        KeyError: the label has no token.
    """
    if not label_tokens:
        return list(tokenizer.encode(completion, add_special_tokens=False).ids)
    token = tokenizer.token_to_id(completion)
    if token is None:
        raise KeyError("a label has no token in this vocabulary; output.labels must name every label of the records")
    return [token]
