"""Rows a second of one checkpoint that writes: ours, beside transformers one by one, in batches, and in batches sorted by length.

Run: make bench-score          (or: .venv/bin/python -m benchmarks.score --rows 1024 --rounds 2)

All in one process, in turn, round by round, one thread each; counted in CPU-seconds, so that neighbours on the machine cost nobody
anything. Prompts are those of the shipped processes: orders to be written as JSON, tickets to be given their queue, weekly reports. The
small model has learned from their samples for a minute, so that its texts end where theirs do; the large one has random weights, and
places where a text ends, one of so many that its texts are about as long. Every way is asked from prompt to text, and all texts have to
be the same, or part at two tokens that are equally likely but for rounding.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PROCESSES = {"order_intake": 0.5, "ticket_routing": 0.3, "weekly_report": 0.2}  # share of the prompts
LARGE = {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 512, "initializer_range": 0.05}  # 124 M
EPOCHS = 6.0  # of the small one
ENDS, END, NEW_TOKENS = 1 / 24, 50.0, 48  # of the large one: share of places where a text ends, how clearly, and tokens of a text at most
BATCH, LONGEST = 32, 256
TIE = 1e-3  # of two logits, which are between -10 and 10 or so
ONE_BY_ONE, BATCHES, SORTED, OURS = "pipeline, one by one", "generate, 32 a batch", "generate, sorted", "clerkflow"
BARS = {ONE_BY_ONE: 8.0, BATCHES: 3.5, SORTED: 2.3}
LARGE_BAR = {SORTED: 1.2}

Answer = tuple[str, list[int] | None]  # a text and its tokens without the end; None where the text alone is told
Written = dict[str, tuple[str, list[int]]]  # prompt -> what is written to it, and its tokens
Way = Callable[[Sequence[str]], list[Answer]]  # prompts -> answers
Make = Callable[[Sequence[str]], tuple[Any, Any, int]]  # prompts -> a model, its tokens, tokens of a text at most


def main() -> int:
    """Measure both models, print tables; 0 when every bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024, help="prompts of the small model in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--large-rows", type=int, default=96, help="prompts of the model with 124 M parameters; 0: leave it out")
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    holds = measured("2 M parameters", learned, asked.rows, asked.rounds, BARS)
    if asked.large_rows:
        holds &= measured("124 M parameters", random, asked.large_rows, 1, LARGE_BAR)
    return 0 if holds else 1


def measured(title: str, make: Make, rows: int, rounds: int, bars: dict[str, float]) -> bool:
    """Print rows a CPU-second of each way, and the ratios; whether the bars hold."""
    from rich.console import Console

    prompts = shipped_prompts(rows)
    with tempfile.TemporaryDirectory(prefix="clerkflow-bench-") as name:
        predictor = asked_by(Path(name), prompts, *make(prompts))
        ways = {way: ask for way, ask in ways_of(predictor).items() if way in bars or way == OURS}
        expected = written_by(predictor, prompts)
        found = [one_round(predictor, ways, prompts, expected) for _ in range(rounds)]
    ratios = {way: [each[OURS] / each[way] for each in found] for way in bars}
    console, lengths = Console(width=120), sorted(len(row) for row in predictor.encode(prompts))
    title += f", {rows} prompts of {lengths[0]} to {lengths[-1]} tokens, median {lengths[rows // 2]}; {told_of(expected)} written"
    console.print(table_of(title, found, ratios, bars))
    return all(statistics.median(ratios[way]) >= bar for way, bar in bars.items())


def shipped_prompts(rows: int) -> list[str]:
    """Prompts of the shipped processes, mixed."""
    from infra.settings import ROOT
    from tasks.declaration import load_process
    from tasks.prompts import prompt_of
    from tasks.readers import Reader
    from tasks.records import Record

    found = []
    for name, share in PROCESSES.items():
        process = load_process(name, ROOT / "data" / "processes")
        needed = [path for path, column in process.input_columns.items() if column.type == "string" and not column.optional]
        reader = Reader(process.folder / "sample.jsonl", "sample.jsonl", process)
        records = [row for row in reader if isinstance(row, Record) and all(isinstance(row.values.get(path), str) for path in needed)]
        wanted = max(1, round(share * rows))
        found += [prompt_of(process, record.values) for record in records[:: max(1, len(records) // wanted)][:wanted]]
    return sorted(found, key=lambda prompt: hash_of(prompt))[:rows]


def hash_of(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def learned(prompts: Sequence[str]) -> tuple[Any, Any, int]:
    """A model with 2.3 M parameters that has seen samples of these processes; its tokens, and how long a text may be."""
    from benchmarks.training import Bench

    with tempfile.TemporaryDirectory(prefix="clerkflow-bench-") as name:
        bench = Bench(Path(name))
        tuning = bench.tuning("auto", EPOCHS)
        tuning.run(lambda progress: None)
        return tuning.model.eval(), bench.tokens, int((bench.rows.samples - bench.rows.prompt_tokens).max())


def random(prompts: Sequence[str], config: Mapping[str, Any] = LARGE) -> tuple[Any, Any, int]:
    """A model that has learned nothing; its tokens, and how long a text may be."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from tasks.models import calm_transformers, seeded
    from tasks.vocabulary import train_vocabulary

    calm_transformers()
    tokens = train_vocabulary(prompts, 4096)
    with seeded(11), torch.no_grad():
        model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, pad_token_id=0, activation_function="gelu", **config))
        model.get_output_embeddings().weight[tokens.get_vocab_size() :] = 0  # so that it writes only what its tokens can tell
        places = model.transformer.wpe.weight
        places[torch.rand(len(places)) < ENDS] += END * model.get_output_embeddings().weight[0]
    return model, tokens, NEW_TOKENS


def asked_by(folder: Path, texts: Sequence[str], model: Any, tokens: Any, longest: int) -> Any:
    """A text model, asked through the engine that an evaluation would choose.

    Args:
        longest: tokens of what it writes.
    """
    from transformers import PreTrainedTokenizerFast

    from tasks.artifacts import write_json
    from tasks.declaration import parse_process
    from tasks.engines import choose
    from tasks.generation import Predictor
    from tasks.vocabulary import EOS

    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=EOS, pad_token=EOS).save_pretrained(folder)  # type: ignore[no-untyped-call]
    declared = {
        "name": "score",
        "owner": "benchmarks",
        "records": {"source": "sample.jsonl"},
        "sample": {"prompt": "{prompt}"},
        "output": {"text": "answer"},
        "finetuning": {"max_length": LONGEST},
        "gate": [{"metric": "answered", "at_least": 0}],
    }
    write_json(folder / "declaration.json", parse_process(declared, "benchmarks/score.py").model_dump(mode="json"))
    write_json(folder / "contract.json", {"kind": "text", "max_new_tokens": longest})
    predictor = Predictor.load(folder)
    choose(predictor, folder, "ctranslate2", texts[:8])
    return predictor


def told_of(written: Written) -> str:
    """How many tokens are written, without the end: median, mean and most."""
    lengths = sorted(len(ids) for _, ids in written.values())
    return f"median {lengths[len(lengths) // 2]}, mean {statistics.mean(lengths):.0f}, at most {lengths[-1]} tokens"


def ways_of(predictor: Any) -> dict[str, Way]:
    """Each way to let the model write."""
    from transformers import PreTrainedTokenizerFast, pipeline

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=predictor.tokens, eos_token="<|endoftext|>", pad_token="<|endoftext|>")  # type: ignore[no-untyped-call]
    options = {"max_new_tokens": predictor.max_new_tokens, "do_sample": False}
    one = pipeline("text-generation", model=predictor.model, tokenizer=tokenizer)

    def read(ids: list[int]) -> Answer:
        ids = ids[: ids.index(predictor.eos)] if predictor.eos in ids else ids
        return str(predictor.tokens.decode(ids, skip_special_tokens=True)), ids

    def one_by_one(prompts: Sequence[str]) -> list[Answer]:
        answers = [one(prompt, return_tensors=True, **options)[0]["generated_token_ids"] for prompt in prompts]
        return [read(answer[len(row) :]) for answer, row in zip(answers, predictor.encode(prompts), strict=True)]

    def batches(prompts: Sequence[str], order: Sequence[int]) -> list[Answer]:
        from tasks.batching import left_padded

        rows, found = predictor.encode(prompts), [("", None)] * len(prompts)
        for start in range(0, len(order), BATCH):
            indices = order[start : start + BATCH]
            ids, mask = left_padded([rows[index] for index in indices])
            answers = predictor.model.generate(input_ids=ids, attention_mask=mask, **options)[:, ids.shape[1] :]
            for index, answer in zip(indices, answers.tolist(), strict=True):
                found[index] = read(answer)
        return found

    def by_length(prompts: Sequence[str]) -> list[Answer]:
        lengths = [len(row) for row in predictor.encode(prompts)]
        return batches(prompts, sorted(range(len(prompts)), key=lengths.__getitem__))

    return {
        ONE_BY_ONE: one_by_one,
        BATCHES: lambda prompts: batches(prompts, range(len(prompts))),
        SORTED: by_length,
        OURS: lambda prompts: [(each.completion, None) for each in predictor.predict(prompts)],
    }


def one_round(predictor: Any, ways: dict[str, Way], prompts: Sequence[str], expected: Written) -> dict[str, float]:
    """Rows a CPU-second of each way; one by one is asked a sixteenth of the prompts.

    Raises:
        RuntimeError: two ways wrote different texts.
    """
    found = {}
    for way, ask in ways.items():
        asked = prompts[::16] if way == ONE_BY_ONE else prompts
        began = time.process_time()
        answers = ask(asked)
        found[way] = len(asked) / (time.process_time() - began)
        apart = [gap(predictor, prompt, answer, expected[prompt]) for prompt, answer in zip(asked, answers, strict=True)]
        if wrong := [each for each in apart if each >= TIE]:
            told = f"where they part, one logit is up to {max(wrong):.2g} below the best"
            raise RuntimeError(f"{way}: {len(wrong)} of {len(asked)} texts are not what clerkflow writes; {told}")
    return found


def written_by(predictor: Any, prompts: Sequence[str]) -> Written:
    """Prompt -> what ours writes to it, and its tokens, in the batches in which it answers: in others two that are as likely may change."""
    engine, ids = predictor.engine or predictor, {}
    write = engine.write

    def kept(rows: Sequence[list[int]]) -> Any:
        answers = write(rows)
        ids.update({tuple(row): answer.ids for row, answer in zip(rows, answers, strict=True)})
        return answers

    engine.write = kept
    try:
        texts = [each.completion for each in predictor.predict(prompts)]
    finally:
        del engine.write
    return {prompt: (text, ids[tuple(row)]) for prompt, text, row in zip(prompts, texts, predictor.encode(prompts), strict=True)}


def gap(predictor: Any, prompt: str, one: Answer, other: tuple[str, list[int]]) -> float:
    """How far below the best logit one of two answers goes on where they part, 0 for the same: padding decides between equals.

    Infinite where texts differ, and their tokens are not told.
    """
    import torch

    if one[1] is None or one[1] == other[1]:
        return 0.0 if one[0] == other[0] else float("inf")
    before, after = predictor.encode([prompt])[0], [[*ids, predictor.eos] for ids in (one[1], other[1])]
    same = next(index for index, pair in enumerate(zip(*after, strict=False)) if pair[0] != pair[1])
    with torch.no_grad():
        scores = predictor.model(input_ids=torch.tensor([before + after[0][:same]])).logits[0, -1]
    return float(scores.max() - scores[[ids[same] for ids in after]].min())  # each of the two is as good as the best, else it is wrong


def table_of(title: str, found: list[dict[str, float]], ratios: dict[str, list[float]], bars: dict[str, float]) -> Any:
    """One line a way."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in ("", "rows/CPU-second", "clerkflow is", "rounds", "bar"):
        table.add_column(heading, justify="left" if not heading else "right")
    for way in found[0]:
        rate = f"{statistics.median(each[way] for each in found):,.1f}"
        if way == OURS:
            table.add_row(way, rate)
            continue
        median = statistics.median(ratios[way])
        rounds = " ".join(f"{ratio:.1f}" for ratio in ratios[way])
        table.add_row(way, rate, f"{median:.2f} times", rounds, f"{bars[way]:g} {'holds' if median >= bars[way] else 'MISSED'}")
    return table


if __name__ == "__main__":
    sys.exit(main())
