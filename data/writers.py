"""Writers: chance, a language and data/phrases/<process>.toml -> the content of one record of a process."""

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

PART = re.compile(r"\{(\w+)\}|\[([^\[\]{}]*)\]")
CHINESE = re.compile("[一-鿿]")
CONFUSED = ("账帐", "录陆", "在再", "的得", "已以", "做作", "订定", "付负", "象像", "到道", "退腿", "请清")  # one sound, two characters
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")
NUMBERS = {"en": ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), "zh": "一两三四五六七八九十"}
TYPO_SHARE = 0.12

Row = dict[str, Any]


# --- language


@dataclass(frozen=True)
class World:
    """What one record is made from: chance, the process's phrases, the record's language and moment."""

    rng: random.Random
    phrases: Mapping[str, Any]
    language: str  # en, zh, or mixed: Chinese with English words in it
    when: datetime
    drifted: bool = False

    @property
    def base(self) -> str:
        """The language of the grammar."""
        return "zh" if self.language == "mixed" else self.language

    @property
    def gap(self) -> str:
        """What stands between two sentences."""
        return "" if self.base == "zh" else " "

    @cached_property
    def lists(self) -> dict[str, Any]:
        """Name -> phrases, those of the changed world laid over when it has changed."""
        changed = self.phrases["drift"][self.base] if self.drifted else {}
        return {**self.phrases[self.base], **self.phrases.get(self.language, {}), **changed}

    def say(self, text: str, **slots: Any) -> str:
        """A phrase with every {name} and [a|b] decided, the innermost first."""

        def decide(match: re.Match[str]) -> str:
            name, options = match.groups()
            if name is None:
                return str(self.rng.choice(options.split("|")))
            return str(slots[name]) if name in slots else self.rng.choice(self.lists[name])

        while PART.search(text):
            text = PART.sub(decide, text)
        return text

    def pick(self, table: str) -> str:
        """A key of a table of weights."""
        return weighted(self.rng, (self.phrases["drift"] if self.drifted else self.phrases)[table])

    def chance(self, share: float) -> bool:
        """True in this share of the calls."""
        return self.rng.random() < share

    def spoken(self, text: str, keep: Iterable[str] = ()) -> str:
        """The text as people type it: words of the other language when mixed, now and then a slip; `keep` stays as it is."""
        if self.language == "mixed":
            for word, other in self.phrases["mixed"]["swap"].items():
                changed = text.replace(word, f" {other} ")
                if changed != text and self.chance(0.7) and CHINESE.search(changed):
                    text = kept(changed, text, keep)
            text += "" if re.search("[A-Za-z]{2}", text) else self.say("{tail}")
        text = re.sub(r"\s+", " ", text).strip()
        return kept(misspelt(self.rng, text), text, keep) if self.chance(TYPO_SHARE) else text


def weighted(rng: random.Random, weights: Mapping[str, float]) -> str:
    """A key, as often as its weight says."""
    return rng.choices(list(weights), list(weights.values()))[0]


def kept(changed: str, text: str, keep: Iterable[str]) -> str:
    """The changed text, or the old one when something that must stand word for word was hit."""
    return changed if all(word in changed for word in keep) else text


def misspelt(rng: random.Random, text: str) -> str:
    """The text with one slip: two letters exchanged, one lost or doubled; in Chinese a character of the same sound."""
    places = [(at, pair) for at, letter in enumerate(text) for pair in CONFUSED if letter in pair]
    if places:
        at, pair = rng.choice(places)
        return text[:at] + pair[1 - pair.index(text[at])] + text[at + 1 :]
    words = list(re.finditer(r"[A-Za-z]{4,}", text))
    if not words:
        return text
    at = rng.choice(words).start() + rng.randint(1, 2)
    slip = rng.choice((text[at + 1] + text[at], text[at + 1], text[at] + text[at] + text[at + 1]))
    return text[:at] + slip + text[at + 2 :]


# --- ticket_routing


def ticket(world: World) -> Row:
    """A customer message and the queue that answers it; about 1 in 60 stands in a wrong queue."""
    queue, channel = world.pick("mix"), world.pick("channels")
    if not world.drifted and world.chance(0.05):
        text, queue = _short_message(world)
    else:
        text = _message(world, queue, channel)
    if world.chance(1 / 60):
        queue = world.pick("mix")
    return {"channel": channel, "text": world.spoken(text), "queue": queue}


def _message(world: World, queue: str, channel: str) -> str:
    """Opening, matter, detail, closing: each as often as the channel's people write it."""
    opening, detail, closing = {"email": (0.8, 0.5, 0.6), "chat": (0.35, 0.2, 0.2), "app": (0.1, 0.15, 0.1), "voice": (0.9, 0.9, 0.7)}[
        channel
    ]
    old = world.phrases[world.base]["issue"]
    new = world.phrases["drift"][world.base]["issue"] if world.drifted and world.chance(0.65) else old
    text = world.say(world.rng.choice(new[queue]))
    if world.chance(0.2):
        other = world.rng.choice([name for name in old if name != queue])
        text = world.say(
            world.rng.choice(world.phrases[world.base]["turn"]), issue=text, aside=world.rng.choice(world.lists["aside"][other])
        )
    end = "" if text.endswith(("?", "？", "。", ".")) or channel == "voice" or world.chance(0.3) else "。" if world.base == "zh" else "."
    parts = ["{opening}"] * world.chance(opening) + [text + end] + ["{detail}"] * world.chance(detail)
    parts += ["{detail}"] * (world.drifted and world.chance(0.5)) + ["{closing}"] * world.chance(closing)
    comma = "，" if world.base == "zh" and channel == "voice" else world.gap
    return world.say(comma.join(parts))


def _short_message(world: World) -> tuple[str, str]:
    """Too few words to be sure of the queue."""
    kind = world.rng.choice(world.phrases["short"])
    chinese = world.base == "zh"
    texts = [text for text in kind["text"] if bool(CHINESE.search(text)) == chinese]
    opening = "{opening}" + world.gap if world.chance(0.4) else ""
    return world.say(opening + world.rng.choice(texts)), world.rng.choice(kind["queues"])


# --- order_intake


def order(world: World) -> Row:
    """An order e-mail and the order form that a clerk fills in from it."""
    rng, unit, priority = world.rng, world.pick("units"), world.pick("mix")
    customer = world.say("{customer}")
    number = rng.choice(("PO-{}", "{}", "A{}", "2025-{}")).format(rng.randint(1000, 9999))
    products = rng.sample(world.lists["product"], 2 if world.chance(0.3) else 1)
    quantities = [_quantity(rng, unit) for _ in products]
    form: Row = {
        "customer": customer,
        "order_number": number,
        "products": products,
        "quantities": quantities,
        "unit": unit,
        "priority": priority,
    }
    lines = [_line(world, unit, count, product) for count, product in zip(quantities, products, strict=True)]
    parts = [world.say("{number}", order_number=number), world.rng.choice(world.lists["priority"][priority]), world.say("{nothing}")]
    if world.chance(0.65):
        day = (world.when + timedelta(days=rng.randint(3, 45))).date()
        form["delivery_date"] = day.isoformat()
        parts.append(world.say("{due}", day=_written(world, day)))
    if world.chance(0.12):
        parts.append(world.say("{other_date}", day=_written(world, (world.when - timedelta(days=rng.randint(2, 30))).date())))
    rng.shuffle(parts)
    wish = f"{world.say('{start}')}{world.gap}{world.say('{and}').join(lines)}{'。' if world.base == 'zh' else '.'}"
    who, sign = ("{who}", "") if world.chance(0.5) else ("", "{sign}")
    text = world.gap.join(part for part in (world.say("{opening}"), world.say(who, customer=customer), wish, *parts) if part)
    text += world.gap + world.say(sign, customer=customer)
    return {"email": world.spoken(text, [customer, number, *lines, *products]), "form": form}


def _quantity(rng: random.Random, unit: str) -> int:
    return {"piece": rng.choice((1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 24, 25, 30, 40, 50, 60, 80, 100, 120, 200, 250, 500))}.get(
        unit, rng.randint(1, 40 if unit == "box" else 9)
    )


def _line(world: World, unit: str, count: int, product: str) -> str:
    """One line of an order; small numbers are at times written as words."""
    words = NUMBERS[world.base]
    number = words[count - 1] if count <= 10 and world.chance(0.2) else str(count)
    return world.say(world.rng.choice(world.lists["unit"][unit]), n=number, product=product)


def _written(world: World, day: date) -> str:
    """A day as people write it, always with its year."""
    chinese = f"{day.year}年{day.month}月{day.day}日"
    english = (f"{day.day} {MONTHS[day.month - 1]} {day.year}", f"{MONTHS[day.month - 1]} {day.day}, {day.year}")
    return world.rng.choice((day.isoformat(), chinese, chinese) if world.base == "zh" else (day.isoformat(), *english))


# --- expense_approval


def expense(world: World) -> Row:
    """A claim and the decision of the expense policy; 1 in 33 was decided otherwise, as people do."""
    rng, category = world.rng, world.pick("mix")
    middle = {"travel": 140, "meals": 55, "equipment": 180, "software": 120, "hotel": 260, "training": 420, "client_gift": 45}[category]
    amount = min(middle * rng.lognormvariate(0, 0.8), 4800)
    private = world.chance(0.05)
    claim: Row = {
        "role": world.pick("roles"),
        "category": category,
        "amount": max(float(round(amount / 10) * 10), 20.0) if amount > 60 else round(amount) + (0.5 if world.chance(0.2) else 0.0) + 3,
        "receipt": world.chance(0.9),
        "weeks_since": int(min(rng.expovariate(1 / 4), 30)),
        "percent_of_limit": 5 * int(min(rng.gammavariate(3.2, 4.8) + 1, 58)),
        "pre_approved": world.chance(0.25),
        "purpose": world.spoken(world.say(rng.choice(world.lists["private"] if private else world.lists["purpose"][category]))),
    }
    decision = decided(claim, private)
    if world.chance(0.03):
        decision = rng.choice([other for other in ("approve", "reject", "escalate") if other != decision])
    return {"claim": claim, "decision": decision}


def decided(claim: Row, private: bool) -> str:
    """The expense policy, in the order in which its clauses apply."""
    over, warned = claim["percent_of_limit"], not claim["pre_approved"]
    if private or (not claim["receipt"] and claim["amount"] > 25) or claim["weeks_since"] > 12 or (over > 150 and warned):
        return "reject"
    large = claim["amount"] >= 1000 and claim["role"] in ("staff", "senior")
    gift = claim["category"] == "client_gift" and claim["amount"] > 50
    return "escalate" if (over > 100 and warned) or large or gift else "approve"


# --- weekly_report


def weekly(world: World) -> Row:
    """A week's figures and the paragraph written from them."""
    rng, change = world.rng, world.rng.choice((0, *range(-25, 0), *range(1, 30)))
    figures: Row = {
        "site": world.say("{site}"),
        "week": world.when.isocalendar().week,
        "orders": rng.randint(40, 480),
        "revenue": rng.randint(3, 95),
        "change": change,
        "returns": rng.randint(0, 24),
        "on_time": rng.randint(71, 100),
        "product": world.say("{product}"),
    }
    if world.chance(0.4):
        figures["note"] = world.say("{note}")
    trend = world.say(rng.choice(world.lists["trend"]["flat" if change == 0 else "up" if change > 0 else "down"]), change=abs(change))
    said = {**figures, "trend": trend} | ({} if "note" in figures else {"remark": ""})
    report = world.say(world.say(rng.choice(world.lists["report"]), **said), **said).strip()
    facts = [str(value) for name, value in figures.items() if name != "change"]
    return {"figures": figures, "report": kept(misspelt(rng, report), report, facts) if world.chance(0.03) else report}


# --- service_answers


def service(world: World) -> Row:
    """A citizen's question, the desk's answer, another right answer, and the one fact that it must state."""
    rng = world.rng
    topic = rng.choices(world.phrases["topic"], range(len(world.phrases["topic"]) + 4, 4, -1))[0]
    grammar = topic[world.base]
    thing, value = rng.choice(list(grammar["things"].items()))
    mark = "" if world.chance(0.2) else "？" if world.base == "zh" else "?"
    question = world.say("{opening}{context}" + rng.choice(grammar["ask"]) + mark + world.gap + "{closing}", thing=thing)
    answers = [world.say(answer, thing=thing, value=value) for answer in grammar["answer"]]
    first = rng.randrange(len(answers))
    given = world.say("{polite}") + answers[first]
    return {
        "topic": topic["name"],
        "question": world.spoken(question),
        "answer": given,
        "other_answers": answers[:first] + answers[first + 1 :],
        "must_state": value,
    }
