"""Budget: size and epochs follow from counts and declared minutes, and what is declared stays."""

from dataclasses import replace

import pytest

from tasks.budget import Counts, settle
from tasks.tuning import Finetuning, Settled, Size

BATCHES = (("text", 600), ("text", 1024), ("text", 4096), ("fields", 4096))


def settled(counts: Counts, kind: str = "label", **given: object) -> Settled:
    return settle(Finetuning.model_validate(given), kind, counts)


def weights(size: Size) -> int:
    return size.n_layer * size.n_embd**2


def test_what_is_declared_is_never_changed() -> None:
    given = {"size": {"n_layer": 2, "n_embd": 32, "n_head": 2}, "num_train_epochs": 7, "dropout": 0.0, "tokens_per_batch": 100}
    found = settled(Counts(10_000, 200_000, 180_000, 3_000, 77), **given)
    assert found.model_dump(include=set(given)) == given


def test_the_same_counts_give_the_same_settings_and_nothing_is_left_open() -> None:
    one, two = (settled(Counts(8_000, 400_000, 360_000, 2_000, 77), kind) for kind in ("fields", "fields"))
    assert one == two
    assert None not in one.model_dump(exclude={"revision", "lora", "max_new_tokens"}).values()


def test_more_minutes_allow_a_larger_model_and_more_samples_fewer_epochs() -> None:
    few, many = Counts(10_000, 200_000, 180_000, 3_000, 77), Counts(1_000_000, 20_000_000, 18_000_000, 3_000, 77)
    assert weights(settled(few, budget_minutes=60).size) > weights(settled(few, budget_minutes=2).size)
    assert settled(many).num_train_epochs < 1 < settled(few).num_train_epochs


@pytest.mark.parametrize(
    ("kind", "table", "width", "epochs"), [("label", False, 192, 112.5), ("label", True, 64, 20), ("fields", False, 160, 50)]
)
def test_few_samples_get_a_small_model_that_sees_them_often(kind: str, table: bool, width: int, epochs: float) -> None:
    found = settled(Counts(800, 30_000, 28_000, 1_000, 2, table), kind)
    assert found.size.n_embd <= width
    assert found.num_train_epochs == epochs


def test_few_long_samples_in_few_minutes_are_seen_as_often_as_can_be() -> None:
    counts = Counts(1_500, 1_500 * 200, 1_500 * 190, 3_000, 77)
    found = settled(counts, budget_minutes=1)
    assert found.size.n_embd == 64 and found.num_train_epochs < 60


def test_of_samples_that_are_too_many_to_be_seen_twice_a_larger_model_reads_as_many_as_it_needs() -> None:
    counts = Counts(500_000, 100_000_000, 95_000_000, 3_000, 77)
    short, long = (settled(counts, budget_minutes=minutes) for minutes in (1, 10))
    assert (short.size.n_embd, long.size.n_embd) == (64, 128)
    assert short.num_train_epochs < long.num_train_epochs < 1


def test_a_base_of_ours_sees_few_samples_often_as_long_as_the_minutes_last() -> None:
    epochs = [
        settled(Counts(800, 800 * length, 780 * length, 3_000, 77), base="store:base-ours").num_train_epochs for length in (20, 60, 600)
    ]
    assert epochs[0] == 112.5 > epochs[1] > epochs[2] == 12


def test_tokens_cost_what_they_look_at_and_those_that_predict_nothing_less() -> None:
    size = {"n_layer": 4, "n_embd": 128, "n_head": 4}
    short, long, prompts = (
        settled(counts, "text", size=size).num_train_epochs
        for counts in (
            Counts(20_000, 2_000_000, 0, 3_000),
            Counts(2_000, 2_000_000, 0, 3_000),
            Counts(20_000, 2_000_000, 1_900_000, 3_000),
        )
    )
    assert long < short < prompts
    assert settled(Counts(20_000, 2_000_000, 1_900_000, 3_000), "text", size=size, prompt_loss_weight=1).num_train_epochs < prompts


def test_a_batch_is_never_a_few_long_samples() -> None:
    assert settled(Counts(800, 160_000, 144_000, 1_000, 77)).tokens_per_batch >= 16 * 200


def test_texts_that_are_seen_a_few_times_only_are_learned_in_enough_steps() -> None:
    counts = Counts(20_000, 1_100_000, 600_000, 3_000)
    found, labels = settled(counts, "text"), settled(counts)
    assert 2_400 < counts.tokens * found.num_train_epochs / found.tokens_per_batch < 2_600
    assert labels.tokens_per_batch == settled(counts, "text", num_train_epochs=40).tokens_per_batch == 4_096
    assert settled(counts, "text", num_train_epochs=1).tokens_per_batch == 16 * 55
    assert settled(counts, "text", tokens_per_batch=3_000).tokens_per_batch == 3_000


def test_larger_batches_of_texts_take_larger_steps() -> None:
    rates = [settled(Counts(20_000, 1_100_000, 600_000, 3_000), kind, tokens_per_batch=size).learning_rate for kind, size in BATCHES]
    assert rates == pytest.approx([2e-3, 2e-3, 4e-3, 2e-3])


@pytest.mark.parametrize("lora", [None, {"r": 8}])
def test_a_base_is_tuned_gently(lora: object) -> None:
    found = settled(Counts(8_000, 400_000, 360_000, 50_000, 77), base="gpt2", lora=lora)
    assert found.learning_rate < 1e-3
    assert (found.prompt_loss_weight, found.token_dropout, found.num_train_epochs) == (0.0, 0.0, 3.0)


def test_fields_that_are_chosen_get_more_dropout_where_the_training_is_long_enough() -> None:
    usual = Counts(4_000, 160_000, 80_000, 1_000)
    chosen = replace(usual, chosen=True)
    assert (settled(usual, "fields").dropout, settled(chosen, "fields").dropout, settled(chosen, "text").dropout) == (0.1, 0.2, 0.1)
    assert settled(chosen, "fields", num_train_epochs=6).dropout == 0.1
    assert settled(chosen, "fields", dropout=0.05).dropout == 0.05


def test_few_labels_are_not_smoothed_and_of_a_table_only_the_answer_is_learned() -> None:
    table, text = settled(Counts(800, 25_000, 23_000, 600, 2, True)), settled(Counts(9_000, 190_000, 170_000, 3_000, 77))
    assert (table.label_smoothing_factor, table.prompt_loss_weight) == (0.0, 0.0)
    assert (text.label_smoothing_factor, text.prompt_loss_weight) == (0.1, 0.3)


@pytest.mark.parametrize(
    ("samples", "length", "expected"), [(8_000, 45, ("rotary", True)), (8_000, 20, ("learned", False)), (800, 20, ("learned", True))]
)
def test_in_long_prompts_fields_are_found_by_distances(samples: int, length: int, expected: tuple[str, bool]) -> None:
    counts = Counts(samples, samples * (2 * length + 9), samples * length, 2_000)
    found = settled(counts, "fields")
    assert (found.positions, found.neighbours) == expected
    assert settled(counts, "label").positions == settled(counts, "fields", positions="learned").positions == "learned"
    assert settled(counts, "fields", size={"n_layer": 1, "n_embd": 9, "n_head": 3}).positions == "learned"


@pytest.mark.parametrize("base", ["scratch", "store:base-ours"])
def test_prompts_are_split_otherwise_where_labels_are_learned_for_long_enough(base: str) -> None:
    counts = Counts(samples=1_000, tokens=20_000, prompt_tokens=18_000, vocabulary=1000, labels=20)

    def dropout(kind: str, **declared: float) -> float:
        return settle(Finetuning.model_validate({"base": base, **declared}), kind, counts).bpe_dropout

    assert (dropout("label", num_train_epochs=29), dropout("label", num_train_epochs=30)) == (0.0, 0.1)
    assert (dropout("fields", num_train_epochs=50), dropout("text", num_train_epochs=50)) == (0.0, 0.0)
    assert dropout("label", num_train_epochs=1, bpe_dropout=0.2) == 0.2
    assert settle(Finetuning(base="gpt2", num_train_epochs=50), "label", counts).bpe_dropout == 0.0


def test_what_is_predicted_is_what_costs() -> None:
    counts = Counts(1_000, 100_000, 98_000, 3_000, 10)
    assert counts.predicted("text") == 2_000
    assert counts.predicted("label") == 2_000 + 10_000  # a prompt weighs three times its answer at most
    assert Counts(1_000, 12_000, 10_000, 3_000, 10).predicted("label") == 2_000 + 5_000


def test_fields_are_read_oftener_before_the_model_is_deeper() -> None:
    counts = Counts(4_153, 163_000, 55_000, 1_900)  # as ATIS
    found, text = settled(counts, "fields"), settled(counts, "text")
    assert (found.size.n_layer, found.size.n_embd) == (4, 192) and found.num_train_epochs > 13
    assert text.size.n_layer == 6
    assert settled(counts, "fields", budget_minutes=30).size.n_layer == 6
