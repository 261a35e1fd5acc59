"""Objects: declared fields as JSON, written under guidance: in their order, each value of its type, verbatim texts out of the prompt.

xgrammar says which tokens may come next, whatever the vocabulary. What a grammar cannot tell is looked at here: bounds, the calendar, what
stands in the prompt, and that there are only so many tokens left to end in.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.beginnings import EXACT, begins
from tasks.forms import spellings_of, values_of
from tasks.process import OutputField, Process
from tasks.prompts import regions_in, typed

COPIED = ("string", "integer", "number", "date")  # types of which a value can stand word for word in a text
MORE = 48  # bytes of JSON around and in a short value
FEW = 4096  # tokens that are looked at one by one
LONGEST = 32  # bytes of a token that copies
PLAIN_VALUE, QUOTED_VALUE = re.compile(rb"[-0-9.]*"), re.compile(rb'(?:[^"\\]|\\.)*\\?', re.DOTALL)
CHARACTER = re.compile(rb"\\.|[^\x80-\xbf]", re.DOTALL)  # of an escaped text; of one in pieces, the first
STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
OPEN = re.compile(  # the name of a field, and its value so far; of a list, the last
    rb'"((?:[^"\\]|\\.)*)": (?:\[(?:(?:"(?:[^"\\]|\\.)*"|[-0-9.]+), )*)?(?:"((?:[^"\\]|\\.)*\\?)|([-0-9.]*))$', re.DOTALL
)
LIST = '"[" item{0} (", " item{0})* "]"'
JSON = r"""
character ::= [\x20-\x21\x23-\x5B\x5D-\x7E\u00A0-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF] | "\\" ["\\/bfnrt]
string ::= "\"" character+ "\""
integer ::= "-"? ("0" | [1-9] [0-9]{0,17})
number ::= integer ("." [0-9]{1,17})?
date ::= "\"" [0-9]{4} "-" [0-9]{2} "-" [0-9]{2} "\""
boolean ::= "true" | "false"
any ::= string | "\"\"" | number | boolean | "null" | object | "[]" | "[" any (", " any)* "]"
object ::= "{}" | "{" string ": " any (", " string ": " any)* "}"
"""


def rules_of(fields: Mapping[str, OutputField]) -> str:
    """The JSON of declared fields, in their order and as `json.dumps` sets it, as a grammar in xgrammar's EBNF."""
    rules = ['root ::= " "{0,2} "{" first0 "}"']
    for number, (name, declared) in enumerate(fields.items()):
        key = f"{_literal(name)}: "
        several = LIST.format(number) if declared.list else f"item{number}"
        rules += [f"item{number} ::= {_one(declared)}", f"value{number} ::= {several}"]
        for state, before in (("first", ""), ("rest", ", ")):
            without = f" | {state}{number + 1}" if declared.optional else ""
            rules.append(f"{state}{number} ::= {_literal(before + key)} value{number} rest{number + 1}{without}")
    return "\n".join([*rules, f'first{len(fields)} ::= ""', f'rest{len(fields)} ::= ""']) + JSON


def _one(declared: OutputField) -> str:
    """One value, or one of a list."""
    if declared.values is not None:
        return " | ".join(_literal(json.dumps(value, ensure_ascii=False)) for value in declared.values)
    if declared.type == "string" and declared.pattern is not None and _is_known(one := _patterned(declared.pattern)):
        return one
    return declared.type  # how long a text may be is no part of it: to count takes xgrammar a thousand times as long for each token


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _patterned(pattern: str) -> str:
    return f'"\\"" Regex({_literal(pattern)}, json_string=true) "\\""'


def _is_known(rule: str) -> bool:
    """Whether a grammar can be made of what a regular expression has become."""
    import xgrammar

    try:
        xgrammar.GrammarCompiler(xgrammar.TokenizerInfo([b'"']), max_threads=1).compile_grammar(f"root ::= {rule}")
    except RuntimeError:
        return False
    return True


class JsonRules:
    """The JSON of declared fields in one vocabulary   (xgrammar, by MLC; 17 MB on disk with Apache's TVM FFI, which it brings).

    Args:
        rows: of the model's embedding; some tokenizers have fewer tokens.
    """

    def __init__(self, process: Process, tokenizer: Any, rows: int, eos: int) -> None:
        import xgrammar

        self.process, self.eos = process, eos
        self.fields = {_escaped(name): declared for name, declared in (process.output.fields or {}).items()}
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=rows, stop_token_ids=[eos])
        self._compiled = xgrammar.GrammarCompiler(info, max_threads=1).compile_grammar(rules_of(process.output.fields or {}))
        self.bytes: list[bytes] = info.decoded_vocab
        special = [number for number, token in tokenizer.added_tokens_decoder.items() if token.special and number != eos]
        self._usable = ~np.isin(np.arange(rows), special)
        self.first = np.array([token[0] if token else 0 for token in self.bytes], dtype=np.uint8)
        self.characters = np.array([_characters(token) for token in self.bytes])
        self.copies: dict[bytes, list[int]] = {}
        for number in np.flatnonzero(self._usable).tolist():
            self.copies.setdefault(self.bytes[number], []).append(number)
        choices = [max(map(len, map(_escaped, declared.values or ("",)))) for declared in self.fields.values()]
        self.room = sum(MORE + len(name) for name in self.fields) + sum(choices)

    def matcher(self) -> Any:
        """What follows one completion, token by token."""
        import xgrammar

        return xgrammar.GrammarMatcher(self._compiled)

    def following(self, matcher: Any) -> NDArray[np.int64]:
        """The tokens that may come next."""
        import xgrammar

        mask = xgrammar.allocate_token_bitmask(1, len(self._usable))
        matcher.fill_next_token_bitmask(mask)
        bits = np.unpackbits(mask.numpy().view(np.uint8)[0], bitorder="little")[: len(self._usable)]
        found: NDArray[np.int64] = np.flatnonzero(bits.astype(bool) & self._usable)
        return found


def _escaped(text: str) -> bytes:
    """A text as it stands within the quotes of JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


def _characters(text: bytes) -> int:
    """How many characters stand before the quote that ends an escaped text."""
    return len(CHARACTER.findall(QUOTED_VALUE.findall(text)[0]))


class JsonGuide:
    """Declared fields as JSON under way: numbers and days that are ones, verbatim texts out of the prompt, and an end in time.

    Args:
        prompt: of the record.
        most: tokens that may be written before the end.
    """

    def __init__(self, rules: JsonRules, prompt: str, most: int) -> None:
        self.rules, self.most, self.left = rules, most, most
        self._matcher = rules.matcher()
        self._written = b""
        regions = _inputs(rules.process, prompt)
        self._said = {name: _said(declared, regions) for name, declared in rules.fields.items()}

    def allowed(self) -> Tensor:
        """The tokens that may come next, one or more."""
        if not self.left:
            return torch.tensor([self.rules.eos])
        tokens = self.rules.following(self._matcher)
        if not len(tokens):  # a grammar that promised more than its vocabulary can say
            return torch.tensor([self.rules.eos])
        held = self._held(tokens)
        tokens = held if len(held) else tokens
        return torch.from_numpy(self._ending(tokens) if self.left <= self.rules.room else tokens)

    def take(self, token: int, log_probability: float = 0.0) -> None:
        """Go on behind a token that was allowed."""
        self.left -= 1
        if token != self.rules.eos:
            self._matcher.accept_token(token)
            self._written += self.rules.bytes[token]

    def _held(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of them that leave each value one that its field takes."""
        match = OPEN.search(self._written)
        declared = self.rules.fields.get(match[1]) if match else None
        if match and match[2] is not None:
            if declared and declared.type == "string" and declared.values is None:
                tokens = tokens[self.rules.characters[tokens] <= declared.max_characters - _characters(match[2])]
                if not declared.verbatim:
                    return tokens
                copies = self._copies(match[1], match[2])
                tokens = tokens[np.isin(tokens, copies) | (self.rules.first[tokens] == ord('"'))]
            elif not declared or declared.type not in EXACT:
                return tokens
        if len(tokens) > FEW:
            return tokens
        return tokens[[self._keeps(match, self.rules.bytes[token]) for token in tokens.tolist()]]

    def _copies(self, name: bytes, value: bytes) -> list[int]:
        """Tokens with which a value goes on as the prompt does."""
        (said, before), pieces = self._said[name], set[bytes]()
        for at in _places(said, before + value):
            start = at + len(before) + len(value)
            pieces.update(said[start : start + length] for length in range(1, LONGEST + 1))
        return [token for piece in pieces for token in self.rules.copies.get(piece, ())]

    def _keeps(self, match: re.Match[bytes] | None, token: bytes) -> bool:
        """Whether a token begins, goes on with, or ends a value as its field takes it."""
        text = self._written + token
        if match:
            start, inner = (match.start(3), PLAIN_VALUE) if match[2] is None else (match.start(2), QUOTED_VALUE)
            found = inner.match(text, start)
            value = found[0] if found else b""
            if start + len(value) == len(text):
                return self._begins(match[1], value)
            if (value or match[2] is not None) and not self._is_one(match[1], value):
                return False
        if token.count(b'"') > 1 and (whole := OPEN.search(text[: text.rindex(b'"')])) and whole[2] is not None:  # both quotes of a value
            return self._is_one(whole[1], whole[2])
        after = OPEN.search(text)
        return after is None or self._begins(after[1], after[3] if after[2] is None else after[2])

    def _begins(self, name: bytes, value: bytes) -> bool:
        declared = self.rules.fields.get(name)
        if declared is None or declared.values is not None or not value:
            return True
        if declared.type in EXACT:
            return begins(declared, value.decode(errors="replace"))
        if declared.type != "string":
            return True
        if _characters(value) > declared.max_characters:
            return False
        if not declared.verbatim:
            return True
        said, before = self._said[name]
        return not value[:1].isspace() and next(_places(said, before + value), None) is not None

    def _is_one(self, name: bytes, value: bytes) -> bool:
        declared = self.rules.fields.get(name)
        if declared is None or declared.values is not None:
            return True
        if declared.type in EXACT:
            return typed(declared, value.decode(errors="replace")) is not None
        return bool(value) and self._begins(name, value)

    def _ending(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of them that come nearest to the end: alone where they can be, for behind a quote the next of a list may begin."""
        within = b'"' in STRING.sub(b"", self._written)
        for byte in b'"' if within else b'}],"':
            nearest: NDArray[np.int64] = tokens[self.rules.first[tokens] == byte]
            alone = nearest[np.isin(nearest, self.rules.copies.get(bytes([byte]), []))]
            if len(nearest):
                return alone if len(alone) else nearest
        return tokens


def _inputs(process: Process, prompt: str) -> list[str]:
    """What a prompt shows of its record, without the template's own words."""
    return [prompt[start:end] for start, end in regions_in(process, prompt)]


def _said(declared: OutputField, regions: Sequence[str]) -> tuple[bytes, bytes]:
    """What a verbatim text is a part of, and what stands before it there: the prompt's values, or what in them has the field's pattern."""
    if declared.pattern is None:
        return b"\n".join(map(_escaped, regions)), b""
    end = "" if declared.pattern.endswith("\\$") else "$"
    pattern = re.compile(declared.pattern.removeprefix("^").removesuffix(end))
    return b"".join(b"\n" + _escaped(match[0]) for region in regions for match in pattern.finditer(region)), b"\n"


def _places(text: bytes, part: bytes) -> Iterator[int]:
    """Where a part stands in an escaped text; not behind the backslash of an escape."""
    at = text.find(part)
    while at >= 0:
        if text[at - 1 : at] != b"\\":
            yield at
        at = text.find(part, at + 1)


def copied(process: Process, prompt: str, output: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without verbatim values that stand nowhere in the prompt's own.

    Raises:
        ValueError: a field that is required has none that does.
    """
    fields, found = process.output.fields or {}, dict(output)
    regions = _inputs(process, prompt)
    for name in [name for name in output if fields[name].verbatim and fields[name].type in COPIED]:
        declared, values = fields[name], values_of(fields[name], output[name])
        there = [each for each in values if any(text in said for text in spellings_of(process, declared, each, prompt) for said in regions)]
        if there:
            found[name] = there if declared.list else there[0]
        elif declared.optional:
            del found[name]
        else:
            raise ValueError(f"field {name} is declared verbatim, and its value is not in the input")
    return found
