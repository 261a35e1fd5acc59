"""Cleaning: text -> the same text without what only machines put there. The dictionary CLEANERS is all that YAML may name.

Every cleaner is idempotent and takes time in proportion to the text.
"""

import re
import unicodedata
from collections.abc import Iterable
from html.entities import html5

# Half-width katakana and hangul, Latin and Arabic presentation forms, mathematical letters, blanks of other widths, full-width letters,
# digits and the marks of addresses and amounts. Not 。，！？（）: these are how Chinese is written.
SAME_TEXT = re.compile(
    r"[\uff61-\uffdc\ufb00-\ufb17\ufe70-\ufefc\U0001d400-\U0001d7ff\u00a0\u2000-\u200a\u202f\u205f\u3000"
    r"０-９Ａ-Ｚａ-ｚ＂＃＄％＆＇＋－．／＝＠＿￠￡￥￦]+"
)
CONTROL = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
    r"\U000e0001\ud800-\udfff]"
)
EMOJI = r"#*0-9\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff"
SELECTOR = re.compile(r"[\ufe00-\ufe0f]")
STRAY_SELECTOR = re.compile(rf"(?<![{EMOJI}]){SELECTOR.pattern}+")
STRAY_TAG = re.compile(r"(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0020-\U000e007f]+")  # the flag of Scotland is made of them
JOINING = r"\u0600-\u109f"  # Arabic and Indic scripts: a joiner there is spelling
STRAY_JOINER = re.compile(rf"(?<![{EMOJI}\ufe0f{JOINING}])[\u200c\u200d]+|[\u200c\u200d]+(?![{EMOJI}{JOINING}])")
LINE_BREAK = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")

DROPPED = "script|style|title|noscript|iframe|textarea"  # their content is no text for a reader
BLOCKS = "p|div|li|ul|ol|tr|table|h[1-6]|blockquote|pre|section|article|header|footer|dd|dt"
INLINE = "a|b|i|u|s|em|strong|span|font|small|big|sub|sup|del|ins|mark|center|img|wbr|thead|tbody|tfoot|html|head|body|meta|link|dl"
ATTRIBUTE = r"""\s++[\w:.-]++(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s"'<>]++))"""  # always with a value: "a <b and c> d" is no tag
MARKUP = re.compile(
    rf"<(?P<dropped>{DROPPED})(?:{ATTRIBUTE})*+\s*+>|(?P<line></(?:{BLOCKS})\s*+>|<[bh]r(?:{ATTRIBUTE})*+\s*+/?>)|(?P<cell></t[dh]\s*+>)"
    rf"|</?(?:{BLOCKS}|{INLINE}|td|th)(?:{ATTRIBUTE})*+\s*+/?>|(?P<comment><!--)|<!doctype\b[^<>]{{0,300}}>",
    re.IGNORECASE,
)
CLOSING = {name: re.compile(rf"</{name}\s*+>", re.IGNORECASE) for name in DROPPED.split("|")} | {"comment": re.compile("-->")}
ENTITY = re.compile(r"&(?:amp;)*(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
PARAGRAPH = re.compile(r"(?<![ \t])[ \t]*+\n[ \t]*+\n\s*+")
ROUNDS = 20  # of tags within tags such as <<b>b>; text needs two


def normalise_unicode(text: str) -> str:
    """One code for one character: NFC everywhere, NFKC where it changes only the width or the shape.

    Full-width letters and digits, half-width katakana, ligatures (ﬁ) and odd blanks become the usual ones. What NFKC would change
    in meaning stays: x², ①, ½, ㎏, ™ and Chinese punctuation.
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", SAME_TEXT.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text))


def strip_html(text: str) -> str:
    """The text a reader of the page would see; only when known tags or entities stand in it.

    `<100`, `0<=X<200`, `a < b` and `<john@example.com>` are no tags. Scripts and styles go with their content; one that is never
    closed is left as text, else it would swallow the rest. No tree is built: deep nesting takes a parser minutes.
    """
    for _ in range(ROUNDS):
        if "<" not in text and "&" not in text:
            break
        found = _without_tags(_without_entities(text))
        if found == text:
            break
        text = found
    return text


def _without_entities(text: str) -> str:
    return ENTITY.sub(_character, text) if "&" in text else text


def _character(entity: re.Match[str]) -> str:
    """The character an entity names; an unknown one stays as it is."""
    name = entity[1]
    if name[0] != "#":
        found = html5.get(f"{name};", entity[0])
    else:
        code = int(name[2:], 16) if name[1] in "xX" else int(name[1:])
        found = chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else ""
    return " " if found == "\xa0" else found


def _without_tags(text: str) -> str:
    """Text without its tags; a line ends where a block does."""
    pieces, end = [], 0
    unclosed: set[str] = set()
    for tag in MARKUP.finditer(text):
        if tag.start() < end:  # within a script or a comment
            continue
        until = tag.end()
        if element := (tag["dropped"] or (tag["comment"] and "comment") or "").lower():
            close = None if element in unclosed else CLOSING[element].search(text, until)
            if close is None:
                unclosed.add(element)
                continue
            until = close.end()
        pieces += [text[end : tag.start()], "\n" if tag["line"] else " " if tag["cell"] else ""]
        end = until
    if not pieces:
        return text
    return PARAGRAPH.sub("\n\n", "".join([*pieces, text[end:]])).strip()


def strip_control(text: str) -> str:
    """Text without control, zero-width and direction characters, byte order marks and half surrogates.

    Tabs and line breaks stay, and joiners and selectors where they are part of an emoji (👨‍👩‍👧, ❤️) or of an Arabic or Indic word.
    """
    if text.isprintable() and (text.isascii() or not SELECTOR.search(text)):
        return text  # as nearly all are, told at once
    text = STRAY_TAG.sub("", STRAY_SELECTOR.sub("", CONTROL.sub("", text)))
    return STRAY_JOINER.sub("", text)


def normalise_line_breaks(text: str) -> str:
    """Every kind of line break as \\n."""
    return LINE_BREAK.sub("\n", text)


def fold(text: str) -> str:
    """The form in which two texts are compared: NFKC, case folded, nothing invisible, runs of blanks as one."""
    text = unicodedata.normalize("NFKC", strip_control(text)).casefold()
    return " ".join(unicodedata.normalize("NFKC", text).split())


def alike(texts: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of different texts that are one when folded, such as "Billing" and "billing "."""
    groups: dict[str, list[str]] = {}
    for text in dict.fromkeys(texts):
        groups.setdefault(fold(text), []).append(text)
    return [tuple(group) for group in groups.values() if len(group) > 1]


CLEANERS = {
    "normalise_unicode": normalise_unicode,
    "strip_html": strip_html,
    "strip_control": strip_control,
    "normalise_line_breaks": normalise_line_breaks,
}
