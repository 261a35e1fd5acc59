"""Routing: what a champion says to a record -> accepted, or a person looks at it and why; by its own version's certificate."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks.automation import label_of, text_of
from tasks.certificate import Certificate, Reason, read_certificate
from tasks.predictions import Prediction
from tasks.process import Process
from tasks.records import Record
from tasks.reviews import AUDIT, shown_id
from tasks.splitting import draw
from tasks.terms import Automation

if TYPE_CHECKING:
    from tasks.scope import Scope

logger = logging.getLogger(__name__)

FILE = "review.jsonl"
AUDIT_FILE = "audit.jsonl"

Why = Reason | Literal["audit"]  # a person looks at an answer


@dataclass(frozen=True, slots=True)
class Proposed:
    """One row of review.jsonl, an answer that a person has to look at; or of audit.jsonl, one that is accepted, and is looked at, too."""

    record_id: str
    line: int  # of the source, 1-based
    reason: Why
    output: Any  # what the model proposes
    confidence: float  # 0-1
    threshold: float | None  # from which on it would have been accepted; None: nothing with this label is
    fields: Mapping[str, float] | None  # confidence of each field, where the model tells it
    similarity: float | None  # to the training records, 0-1, where it is asked
    model_version: str
    inputs: dict[str, Any]  # the record's values


@dataclass(frozen=True, slots=True)
class Router:
    """A version's certificate, and what its training records look like."""

    process: Process  # the version's own declaration
    version: str
    certificate: Certificate | None  # none where it is withheld
    scope: "Scope | None"
    withheld: bool  # nothing is accepted: today's declaration wants a certificate that this version does not have
    audit: float = 0.0  # share of accepted answers that a person looks at afterwards

    @classmethod
    def of(cls, folder: Path, process: Process, version: str, today: Process, refuted: str = "") -> "Router":
        """The router of a version's folder.

        Args:
            refuted: why the version's certificate is none any more, in words.

        Raises:
            ValueError: a file in it is damaged.
        """
        certificate, scope = read_certificate(folder), None
        if certificate and certificate.scope is not None:
            from tasks.scope import Scope

            if (scope := Scope.load(folder)) is None:
                raise ValueError(f"{folder} says from where on a record is out of scope, and not what is in it; publish the version again")
        terms = today.automation
        withheld = terms is not None and (bool(refuted) or not (certificate and certificate.vouches_for(terms)))
        if terms and withheld:
            why = refuted or lack_of(certificate, terms)
            logger.warning("scoring: all answers of %s go to review: %s; train again", version, why)
        return cls(process, version, None if withheld else certificate, scope, withheld, terms.audit if terms else 0.0)

    def similarities(self, asked: Sequence[tuple[Record, str]]) -> Sequence[float | None]:
        """How much each record is like the training records; None where nobody asks.

        Args:
            asked: records with their prompts.
        """
        if not self.scope:
            return [None] * len(asked)
        found: list[float] = self.scope.similarities([text_of(self.process, record.values, prompt) for record, prompt in asked]).tolist()
        return found

    def proposed(self, record: Record, prediction: Prediction, similarity: float | None) -> Proposed | None:
        """What a person has to look at; None where the answer is accepted, or there is none.

        A version without a certificate accepts everything; once the declaration asks for one, or for a stricter one, nothing.
        """
        reason: Reason | None = "uncertified" if self.withheld else None
        if self.certificate:
            label = label_of(self.process.output.kind, prediction.output)
            reason = self.certificate.reason(label, prediction.confidence, similarity)
        if prediction.output is None or reason is None:
            return None
        return self._proposed(reason, record, prediction, similarity)

    def audited(self, record: Record, prediction: Prediction, similarity: float | None) -> Proposed | None:
        """An accepted answer that a person looks at afterwards; None where the record is not drawn.

        Its id and what the model was shown of it decide, and nothing else: however often it comes, it is drawn or it is not.
        """
        if not self.audit or draw(0, f"{AUDIT}\0{shown_id(record.id, record.values, self.process.input_columns)}") >= self.audit:
            return None
        return self._proposed(AUDIT, record, prediction, similarity)

    def _proposed(self, reason: Why, record: Record, prediction: Prediction, similarity: float | None) -> Proposed:
        label = label_of(self.process.output.kind, prediction.output)
        return Proposed(
            record_id=record.id,
            line=record.line,
            reason=reason,
            output=prediction.output,
            confidence=prediction.confidence,
            threshold=self.certificate.threshold_of(label) if self.certificate else None,
            fields=prediction.fields,
            similarity=None if similarity is None else round(similarity, 4),
            model_version=self.version,
            inputs=dict(record.values),
        )


def lack_of(certificate: Certificate | None, terms: Automation) -> str:
    """What today's declaration asks of a certificate, and what the version has instead."""
    wanted = f"max_error {terms.max_error:g} with confidence {terms.confidence:g} is declared"
    had = f"certified for {certificate.max_error:g} with {certificate.confidence:g}" if certificate else "not certified"
    return f"{wanted}, and it was {had}"
