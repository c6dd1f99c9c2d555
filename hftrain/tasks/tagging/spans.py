"""Texts as words, and spans of entities in a text as tags of its words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from hftrain.data.readers import Fault
from hftrain.data.readers import text as text_of

# Scripts without spaces (Thai and Lao, Myanmar, Khmer, kana, Chinese characters): each character is a word.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
MARKS = "".join(sign for sign in map(chr, range(0x300, 0xFE30)) if unicodedata.category(sign).startswith("M"))
LETTERS = f"(?:(?![{UNSPACED}])[\\w{MARKS}])+"
# A web address, a name or tag of social media, a word with inner hyphens and points, 's and the like, or a character.
WORD = re.compile(
    f"https?://\\S+|[@#]{LETTERS}|[{UNSPACED}][{MARKS}]*|{LETTERS}(?:[-.]{LETTERS})*|['’]{LETTERS}|[^\\w\\s]"
)
INSIDE = re.compile(f"(?![{UNSPACED}])\\w(?![{UNSPACED}])\\w|.[{MARKS}]", re.DOTALL)  # around a position

KEYS = (  # usual names of a span's start, end and type
    ("start", "start_offset", "begin", "start_char", "from"),
    ("end", "end_offset", "end_char", "to"),
    ("label", "labels", "entity_group", "type", "entity_type", "entity", "tag", "category", "class"),
)
PREFIX = re.compile(r"[BIOESLU]-.+", re.DOTALL)


class Word(NamedTuple):
    """A word and its first character and end in the text."""

    text: str
    start: int
    end: int


class Span(NamedTuple):
    """The first character, end and type of an entity in a text."""

    start: int
    end: int
    type: str


def words_of(text: str | Sequence[str], edges: Iterable[int] = ()) -> list[Word]:
    """The words of a text, cut at `edges` too; or a list of words, placed in the text that joins them with spaces."""
    if isinstance(text, str):
        parts = pairwise(sorted({0, len(text), *edges}))
        return [Word(match[0], *match.span()) for part in parts for match in WORD.finditer(text, *part)]
    words, start = [], 0
    for word in text:
        words.append(Word(word, start, start + len(word)))
        start += len(word) + 1
    return words


def tag_words(text: str, marked: object) -> tuple[list[str], list[str]]:
    """The words of a text with their tags, in IOB2. A span may end at a hyphen or point inside a word
    (Berlin in Berlin-based), which is cut there.

    Args:
        marked: spans as [start, end, type], or as objects with these keys, by any of their usual names.

    Raises:
        Fault: a span is malformed, begins or ends between the letters of a word, or overlaps another.
    """
    if not isinstance(marked, list):
        raise Fault(f"not a list of spans [start, end, type] but {type(marked).__name__}: {marked!r:.60}")
    spans = sorted({span for value in marked if (span := read_span(value, text))})
    for before, after in pairwise(spans):
        if after.start < before.end:
            first, second = (f"{text[s.start : s.end]!r:.40} ({s.type}, {s.start}-{s.end})" for s in (before, after))
            raise Fault(f"the spans {first} and {second} overlap, but a word has only one tag: keep one of the two")
    words = words_of(text, (edge for span in spans for edge in (span.start, span.end)))
    tags = ["O"] * len(words)
    for span in spans:
        inside = [number for number, word in enumerate(words) if span.start <= word.start and word.end <= span.end]
        if not inside:
            raise Fault(
                f"the span {span.start}-{span.end} ({span.type}) contains no word: {text[span.start : span.end]!r}"
            )
        for number in inside:
            tags[number] = f"{'B' if number == inside[0] else 'I'}-{span.type}"
    return [word.text for word in words], tags


def read_span(value: object, text: str) -> Span | None:
    """A span of `text`; None if its type is "O". Raises: Fault."""
    shown = f"{value!r:.80}"
    if isinstance(value, dict):
        fields: list[Any] = [next((value[name] for name in names if name in value), None) for names in KEYS]
    elif isinstance(value, list) and len(value) == 3:
        fields = value
    else:
        raise Fault(f"a span is [start, end, type], or an object with start, end and label, not {shown}")
    start, end, kind = fields
    if isinstance(kind, list) and len(kind) == 1:  # Label Studio
        (kind,) = kind
    kind = text_of(kind, f"the type of the span {shown}").strip()
    if kind == "O":
        return None
    if PREFIX.fullmatch(kind):
        raise Fault(f"the type of the span {shown} has a prefix: write only {kind[2:]}")
    integers = all(isinstance(place, int) and not isinstance(place, bool) for place in (start, end))
    if not integers or not 0 <= start < end <= len(text):
        raise Fault(f"the span {shown} does not lie in its text, which has {len(text)} characters")
    for side, place in (("begins", start), ("ends", end)):
        if inside_word(text, place):
            raise Fault(f"the span {shown}, {text[start:end]!r:.60}, {side} inside a word{advice(text, start, end)}")
    named = value.get("text") if isinstance(value, dict) else None
    if isinstance(named, str) and named.strip() != text[start:end].strip():
        raise Fault(f"the span {shown} is at {text[start:end]!r:.60}{advice(text, start, end)}")
    return Span(start, end, kind)


def inside_word(text: str, place: int) -> bool:
    """Whether a position is between two letters of one word, or between a letter and its mark."""
    return 0 < place < len(text) and bool(INSIDE.fullmatch(text[place - 1 : place + 1]))


def advice(text: str, start: int, end: int) -> str:
    """A likely cause why a span does not fit its text, or ""."""
    if not inside_word(text, start) and not inside_word(text, end + 1) and end < len(text):
        return f"; if its last character is included it is {text[start : end + 1]!r:.60}: write an end that is one more"
    for what, encoding, width in (("bytes", "utf-8", 1), ("units of UTF-16", "utf-16-le", 2)):
        raw = text.encode(encoding)
        first, last = (len(raw[: place * width].decode(encoding, "ignore")) for place in (start, end))
        if (first, last) != (start, end) and not inside_word(text, first) and not inside_word(text, last):
            return f"; counted in {what} it is {text[first:last]!r:.60}: count positions in characters"
    return ""
