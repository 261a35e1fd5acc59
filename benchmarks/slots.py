"""Slots: an E2E meaning representation and a text -> which of its slots the text leaves out, says wrongly, or invents.

The slot error rate of Wen et al. 2015 (arXiv:1508.01745), (missing + wrong + added) / slots, by patterns of what people write, as Dušek et
al. 2019 (arXiv:1911.03905) count it. A price or a rating is one of three levels, for people say "cheap" and "under £20" of the same place.
Patterns are not perfect: `make bench-real` prints the error rate of people's own texts beside the model's.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.measuring import read_lines

LOW, MIDDLE, HIGH = "low", "middle", "high"
LEVELS = {
    "priceRange": {"cheap": LOW, "less than £20": LOW, "moderate": MIDDLE, "£20-25": MIDDLE, "high": HIGH, "more than £30": HIGH},
    "customer rating": {"low": LOW, "1 out of 5": LOW, "average": MIDDLE, "3 out of 5": MIDDLE, "high": HIGH, "5 out of 5": HIGH},
}
YOUNG = r"(?:famil|kid|child)"
NOBODY = r"\b(?:no|not|non|never|isn'?t|aren'?t|doesn'?t|don'?t|won'?t|without|discourag\w+|unsuitable|inappropriate)\b"
PATTERNS: dict[str, dict[str, tuple[str, ...]]] = {
    "eatType": {
        "restaurant": (r"restaurant",),
        "pub": (r"\bpubs?\b",),
        "coffee shop": (r"coffee[ -]?(?:shop|house|place)", r"\bcaf[ée]\b"),
    },
    "food": {
        "English": (r"english|british", r"fish and chips"),
        "Japanese": (r"japan|sushi",),
        "French": (r"french|france",),
        "Fast food": (r"fast[ -]?food", r"burger"),
        "Indian": (r"indian?\b", r"curry"),
        "Chinese": (r"chin(?:ese|a)\b",),
        "Italian": (r"ital(?:ian|y)", r"pasta|pizza"),
    },
    "area": {
        "riverside": (r"river",),
        "city centre": (r"cent(?:re|er|ral)", r"downtown", r"heart of (?:the )?town", r"\bcity\b"),
    },
    "priceRange": {
        LOW: (
            r"(?:less|lower|under|below|cheaper|up to|within)\b(?: than)?[^.]{0,12}20(?!\s*(?:-|to|–))",
            r"cheap|inexpensive|afford|budget|economical|bargain|reasonabl",
            r"low(?:er)?[ -](?:\w+[ -])?(?:pric|cost)",
            r"pric\w+[^.]{0,30}\blow",
        ),
        MIDDLE: (
            r"20\s*(?:-|–|to|and|through)+\s*£?\s*25",
            r"moderate|medium|reasonabl",
            r"mid(?:dle|-|\s)?[ -]?(?:pric|rang)",
            r"(?:average|fair|decent)(?:ly)?[ -]pric",
            r"pric\w+[^.]{0,30}(?:average|mid)",
        ),
        HIGH: (
            r"(?:more|over|above|higher|exceed\w*|upwards)\b(?: than| of)?[^.]{0,12}30",
            r"30\s*(?:\+|and|or) (?:up|more|over|above)",
            r"(?<!in)expensive|upscale|costly|pricey",
            r"high(?:er)?[ -](?:\w+[ -])?(?:pric|end|cost)",
            r"pric(?:e|es|ed|ey|y)\b[^.]{0,30}\bhigh",
        ),
    },
    "customer rating": {
        LOW: (
            r"(?:1|one)[ -]?(?:out|star|/|of)",
            r"\blow(?:er)?[ -]?(?:\w+ )?(?:customer|rat|review|star|qualit)",
            r"(?:rat|review)\w*[^.]{0,30}\blow",
            r"poor|\bbad|terrible|unsatisf|below average",
            r"(?:not|isn'?t) (?:well|highly|so)",
        ),
        MIDDLE: (
            r"(?:3|three)[ -]?(?:out|star|/|of)",
            r"average|decent|mediocre|fair|\bok(?:ay)?\b",
            r"moderate\w* (?:customer|rat)|mid[ -]?rat",
        ),
        HIGH: (
            r"(?:5|five)[ -]?(?:out|star|/|of (?:5|five))",
            r"high(?:ly)?[ -]?(?:\w+ )?(?:customer|rat|recommend|review|prais|qualit)",
            r"(?:rat|review)\w*[^.]{0,30}\bhigh",
            r"excellent|great|top|perfect|outstanding",
            r"well[ -](?:rat|review|lik)|good (?:customer|rat|review)",
        ),
    },
    "familyFriendly": {
        "yes": (YOUNG,),
        "no": (rf"{NOBODY}[^.]{{0,60}}{YOUNG}", rf"{YOUNG}[^.]{{0,30}}{NOBODY}", r"adults?\b", rf"{YOUNG}\w*[ -]?un(?:friendly|welcome)"),
    },
}
NAMED = ("name", "near")
LOOSE = {("eatType", "restaurant")}  # a word for any place that serves food: it is neither wrong nor invented


def slot_errors(inputs: Mapping[str, str], text: str, names: Iterable[str] = ()) -> tuple[list[str], int]:
    """Slots that are missing, wrong or added, by name; and how many slots there are.

    Args:
        names: of all places; one that is not in the inputs is an invention.
    """
    found = [slot for slot in NAMED if slot in inputs and inputs[slot].lower() not in text.lower()]
    ours = " ".join(inputs.get(slot, "") for slot in NAMED).lower()
    bare = text
    for name in sorted(names, key=len, reverse=True):
        cut = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", " ", bare, flags=re.IGNORECASE)
        found += ["name"] if cut != bare and name.lower() not in ours else []
        bare = cut
    for slot in PATTERNS:
        stated, wanted = stated_in(slot, bare), inputs.get(slot)
        if wanted is None:
            found += [slot] if any((slot, value) not in LOOSE for value in stated) else []
        elif LEVELS.get(slot, {}).get(wanted, wanted) not in stated:
            found.append(slot)
    return found, len(inputs)


def stated_in(slot: str, text: str) -> set[str]:
    """The values, or levels, of a slot that a text states."""
    found = {value for value, parts in PATTERNS[slot].items() if any(re.search(part, text, re.IGNORECASE) for part in parts)}
    return found - {"yes"} if "no" in found else found  # who says that children are not welcome speaks of children


def slot_error_rate(pairs: Iterable[tuple[Mapping[str, str], str]], names: Iterable[str] = ()) -> float:
    """Errors per slot of all texts; may be above 1."""
    known, errors, slots = list(names), 0, 0
    for inputs, text in pairs:
        wrong, count = slot_errors(inputs, text, known)
        errors, slots = errors + len(wrong), slots + count
    return errors / slots


def of_model_and_people(folder: Path, predictions: Path) -> tuple[float, float]:
    """The rates of a model's texts for the test file, and of those that people wrote.

    Args:
        folder: e2e_nlg of the public data.
        predictions: predictions.jsonl of an evaluation.
    """
    train, test, said = map(read_lines, (folder / "train.jsonl", folder / "test.jsonl", predictions))
    names = {record["input"][slot] for record in (*train, *test) for slot in NAMED if slot in record["input"]}
    inputs = {record["id"]: record["input"] for record in test}
    ours = [(inputs[each["record_id"]], each["output"] or "") for each in said]
    people = [(record["input"], text) for record in test for text in record["meta"]["references"]]
    return slot_error_rate(ours, names), slot_error_rate(people, names)
