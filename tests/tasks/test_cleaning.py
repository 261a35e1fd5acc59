import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cleaning import CLEANERS, fold, normalise_line_breaks, normalise_unicode, strip_control, strip_html


@pytest.mark.parametrize(
    "text", ["<100", "0<=X<200", "a < b", "<john@example.com>", "a <b and c> d", "AT&T, R&D; x", "the <script> tag", "<!-- x", "<名前>"]
)
def test_what_only_looks_like_html_stays(text: str) -> None:
    assert strip_html(text) == text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>How&nbsp;do I top up?<br/></p>", "How do I top up?"),
        ("<P>one</P><p>two</p>", "one\ntwo"),
        ("Pay <b style='color: red'>now</b> &amp; win &#20013;&#x6587;", "Pay now & win 中文"),
        ("hello <script>alert('<b>')</script><style>p {}</style>", "hello"),
        ("<p>mail <john@example.com>, 5 < 6</p>", "mail <john@example.com>, 5 < 6"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b \nc"),
        ("x<!-- hidden --> y", "x y"),
        ("&amp;lt;b&amp;gt;bold", "bold"),
    ],
)
def test_tags_and_entities_become_what_a_reader_sees(page: str, text: str) -> None:
    assert strip_html(page) == text


def test_width_and_shape_are_normalised_and_meaning_is_not() -> None:
    assert normalise_unicode("Ｉ　ｗａｎｔ　１２，ｶﾞｽ ﬁn e\u0301") == "I want 12，ガス fin é"
    for kept in ("x²", "①", "½", "㎏", "你好，世界。（是）！", "™"):
        assert normalise_unicode(kept) == kept


def test_invisible_characters_go_and_emoji_stay_whole() -> None:
    assert strip_control("W\u200bh\ufeffy\x00 \u202eabc\u00ad") == "Why abc"
    for kept in (
        "👨\u200d👩\u200d👧",
        "❤\ufe0f",
        "1\ufe0f\u20e3",
        "🙏🏽",
        "می\u200cخواهم",
        "\U0001f3f4\U000e0067\U000e0062\U000e007f",
        "a\tb\nc",
    ):
        assert strip_control(kept) == kept
    assert strip_control("a\ufe0fb\u200dc") == "abc"


def test_every_line_break_becomes_the_same() -> None:
    assert normalise_line_breaks("a\r\nb\rc\u2028d\x85e\n") == "a\nb\nc\nd\ne\n"


def test_texts_that_people_take_for_equal_fold_to_one() -> None:
    assert fold("  ＷＲＯＮＧ\u3000Amount\n\u200b") == fold("wrong amount") == "wrong amount"
    assert fold("Straße") == fold("STRASSE")


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("<>&;/pb=! \u200d\ufe0f👨é")), max_size=60))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    for clean in CLEANERS.values():
        assert clean(clean(text)) == clean(text)
    assert fold(fold(text)) == fold(text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["<div>", "<", "<!--", "<script>", "&amp;", '<a x="', "<p><b>", " ", "\u200d", "<a "])
def test_a_long_hostile_text_is_cleaned_in_proportion_to_its_length(piece: str) -> None:
    text = piece * (500_000 // len(piece))
    for clean in CLEANERS.values():
        assert len(clean(text)) <= len(text)
