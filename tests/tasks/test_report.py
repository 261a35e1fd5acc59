"""Report: one page that needs nothing else, shows no row, and says plainly when a baseline is better."""

from html.parser import HTMLParser
from typing import Any

from tasks.process import Process
from tasks.report import Picture, compared, report, sentences_of, systems_of

METRICS: dict[str, Any] = {
    "model": {"accuracy": 0.8, "ece": 0.1, "perplexity": 12.5},
    "champion": {"accuracy": 0.75, "ece": 0.05},
    "champion_version": "v1",
    "baselines": {"majority": {"accuracy": 0.3}, "tfidf_linear": {"accuracy": 0.9}},
    "slices": {"language=<b>": {"accuracy": 0.5, "count": 4}},
    "per_class": {"<script>alert(1)</script>": {"precision": 0.5, "f1": 0.4, "support": 4.0}, "查询": {"recall": 1.0, "support": 9.0}},
    "counts": {"train": 70, "validation": 10, "test": 20, "cases": 20},
}
PROCESS = Process.model_validate(
    {
        "name": "routing",
        "owner": "a & b",
        "records": {"source": "a.jsonl"},
        "sample": {"prompt": "{text}"},
        "output": {"label": "queue"},
        "gate": [{"metric": "accuracy", "at_least": 0.9}],
    }
)


class Page(HTMLParser):
    """What a browser would load or run, and the page's language."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.language: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        self.language = dict(attrs).get("lang") if tag == "html" else self.language


def test_everything_is_escaped_and_nothing_is_loaded_from_elsewhere() -> None:
    page = Page(report(PROCESS, METRICS, [Picture(b"png", "A plot", {"1": "<i>"})], ["Note <x>"]))
    assert page.language == "en"
    assert not {"script", "b", "i", "x", "link"} & set(page.tags)
    assert page.sources == ["data:image/png;base64,cG5n"]


def test_the_page_has_the_counts_and_every_system() -> None:
    page = report(PROCESS, METRICS, [], [])
    assert "70 train, 10 validation, 20 test" in page
    assert "champion v1" in page
    assert "查询" in page
    assert "<strong>0.9000</strong>" in page


def test_the_best_is_marked_whichever_way_the_metric_points() -> None:
    systems = systems_of(METRICS)
    assert [cell["best"] for cell in compared("accuracy", systems)["cells"]] == [False, False, False, True]
    assert [cell["best"] for cell in compared("ece", systems)["cells"]] == [False, True, False, False]
    assert [cell["text"] for cell in compared("perplexity", systems)["cells"]] == ["12.50", "–", "–", "–"]


def test_a_better_baseline_is_named() -> None:
    said = sentences_of("label", METRICS)
    assert said == ["The baseline tfidf_linear is better than the model on accuracy: 0.9000 against 0.8000."]
    first = METRICS | {"baselines": {"majority": {"accuracy": 0.3}}, "champion": None, "champion_version": None}
    assert sentences_of("label", first) == ["No baseline is better than the model on any measure they share.", "There is no champion yet."]


def test_a_champion_that_could_not_be_measured_is_said_to_be_so() -> None:
    assert "The champion v1 could not be measured on this test split." in sentences_of("label", METRICS | {"champion": {}})
