"""A batch made by a model that answers at once: what is written of each record."""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks import quick
from tasks.answering import Champion, Terms, score_file
from tasks.answers import opened_ledger
from tasks.artifacts import file_digest, modified_at
from tasks.predictions import Prediction
from tasks.sources import Source


class Clerk(quick.Predictor):
    """Fills in one field, and says how sure it is of it."""

    def predict(self, prompts: Sequence[str]) -> list[Prediction]:
        return [Prediction({"queue": quick.label_of(prompt)}, "", 0.75, None, 7, {"queue": 0.75}) for prompt in prompts]


def test_an_accepted_answer_tells_how_sure_each_of_its_fields_is_also_when_it_comes_from_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    path.write_text('{"id": "a", "text": "card"}\n')
    source, asked = (
        Source(path, path.name, file_digest(path), modified_at(path), str(path)),
        quick.process(output={"fields": {"queue": {}}}),
    )
    champion = Champion(Clerk(asked), "quick-1", "0" * 64, quick.router_of(asked))
    for folder in (tmp_path / "first", tmp_path / "again"):
        folder.mkdir()
        with opened_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", "TEST") as ledger:
            tally = score_file(source, champion, asked, Terms(ledger, folder.name, "jsonl"), folder)
        assert tally.asked == (folder.name == "first")
        assert json.loads((folder / "predictions.jsonl").read_text())["fields"] == {"queue": 0.75}
