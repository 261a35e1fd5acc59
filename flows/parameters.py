"""Parameters: what a person may change for one run -> a form in the Prefect UI that explains itself, and the same as plain data."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class FinetuningOverrides(BaseModel):
    """How the model is tuned this time; what is left empty is as declared."""

    model_config = ConfigDict(extra="allow")

    num_train_epochs: float | None = Field(None, gt=0, le=10_000, description="How often every sample is seen.")
    learning_rate: float | None = Field(None, gt=0, le=1, description="Of AdamW, after the warm-up.")
    max_length: int | None = Field(None, ge=8, le=8192, description="Tokens of prompt and completion together; longer ones are cut.")
    seed: int | None = Field(None, ge=0, description="Another one shows how much a result owes to chance.")


class Overrides(BaseModel):
    """Parts of the declaration that differ for this run only, in the words of process.yaml; every other key of it may be added as JSON."""

    model_config = ConfigDict(extra="allow")

    min_valid_share: float | None = Field(None, gt=0, le=1, description="The run stops when fewer of the records are valid.")
    finetuning: FinetuningOverrides | None = Field(None, description="How the model is tuned.")
    gate: list[dict[str, Any]] | dict[str, Any] | None = Field(
        None,
        description='Replaces all rules: [{"metric": "accuracy", "at_least": 0.8}]; or changes one: {"rules": {"2": {"at_least": 0.8}}}.',
    )

    def plain(self) -> dict[str, Any]:
        """What was given; an empty field of the form is as declared, while a null in an added key is meant."""
        named = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return _without_empty(named) | (self.model_extra or {})


def _without_empty(given: Mapping[str, Any]) -> dict[str, Any]:
    plain = {}
    for name, value in given.items():
        if isinstance(value, BaseModel):
            fields = {inner: found for inner in type(value).model_fields if (found := getattr(value, inner)) is not None}
            value = fields | (value.model_extra or {})
        if value != {}:
            plain[name] = value
    return plain


def plain(overrides: "Overrides | Mapping[str, Any] | None") -> dict[str, Any]:
    """Overrides as plain data, laid over the declaration by `load_process`, which says every mistake in them."""
    return overrides.plain() if isinstance(overrides, Overrides) else dict(overrides or {})
