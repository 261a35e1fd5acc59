"""Guiding: who writes under a guide writes what is declared, whatever the weights say."""

from tasks.guiding import LabelGuide, Labels


def test_a_label_may_begin_as_another_and_each_ends() -> None:
    labels = Labels(["card", "card lost", "bill"], [[5], [5, 6], [7, 8]], 0)
    guide = LabelGuide(labels)
    assert (labels.most, guide.allowed().tolist()) == (3, [5, 7])
    guide.take(5)
    assert sorted(guide.allowed().tolist()) == [0, 6]
    guide.take(6)
    assert guide.allowed().tolist() == [0]
    guide.take(0)
    assert guide.output() == "card lost"
