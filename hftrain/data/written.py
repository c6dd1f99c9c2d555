"""Lists and objects written as text in a CSV file: as JSON, or as Python and NumPy print them (`DataFrame.to_csv`)."""

from __future__ import annotations

import ast
import io
import json
import math
import tokenize
from typing import Any

BRACKETS = {"[": "]", "(": ")", "{": "}"}
NAMES = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False, "nan": math.nan}
BLANK = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}


def looks_written(value: object) -> bool:
    """Whether `value` is text that begins and ends like a list or an object."""
    text = value.strip() if isinstance(value, str) else ""
    return len(text) > 1 and BRACKETS.get(text[0]) == text[-1]


def unwritten(value: object) -> Any:
    """The list or the object that the text `value` spells; any other value unchanged.

    It reads JSON, Python's form (tuples and sets become lists) and NumPy's, which has no commas and may be inside
    `array(..., dtype=...)`. Python itself would join the strings of `['a' 'b']` into one.

    Raises:
        ValueError: the text has the brackets of a list or an object, but none of these forms.
    """
    if not isinstance(value, str) or not looks_written(value):
        return value
    text = value.strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in BLANK]
        result, place = _value(tokens, 0)
        if tokens[place].type == tokenize.ENDMARKER:
            return result
    except (tokenize.TokenError, SyntaxError, ValueError, IndexError, RecursionError):
        pass
    if text[0] == "(":
        return value  # for example "(none)": text in brackets
    if "..." in text:
        raise ValueError(f"a list that lost items when it was written as text: {text!r:.60}")
    raise ValueError(f"has the brackets of a list, but is not a list in JSON or Python: {text!r:.60}")


def unwritten_or_text(value: object) -> Any:
    """`unwritten`, or the text itself if it has none of the forms: text in brackets."""
    try:
        return unwritten(value)
    except ValueError:
        return value


def _value(tokens: list[tokenize.TokenInfo], place: int) -> tuple[Any, int]:
    """The value that begins at `place`, and the place after it. Raises: ValueError, IndexError."""
    kind, string = tokens[place].type, tokens[place].string
    if kind in (tokenize.STRING, tokenize.NUMBER):
        return ast.literal_eval(string), place + 1
    if string in ("-", "+"):
        number, place = _value(tokens, place + 1)
        return (-number if string == "-" else number), place
    if string in NAMES:
        return NAMES[string], place + 1
    if string == "array":  # array([...], dtype=...)
        result, place = _value(tokens, place + 2)
        while tokens[place].string != ")":
            place += 1
        return result, place + 1
    if string in BRACKETS:
        return _inside(tokens, place + 1, BRACKETS[string])
    raise ValueError(string)


def _inside(tokens: list[tokenize.TokenInfo], place: int, end: str) -> tuple[Any, int]:
    """The content up to the bracket `end`: an object if it has colons, otherwise a list."""
    parts: list[Any] = []
    pairs: dict[Any, Any] = {}
    while tokens[place].string != end:
        part, place = _value(tokens, place)
        if end == "}" and tokens[place].string == ":":
            pairs[part], place = _value(tokens, place + 1)
        else:
            parts.append(part)
        if tokens[place].string == ",":
            place += 1
        elif tokens[place].string != end and tokens[place].start == tokens[place - 1].end:
            raise ValueError("nothing between two parts")  # 2024-01-05 is not a list of numbers
    if parts and pairs:
        raise ValueError("neither a set nor an object")
    return (parts if parts or end != "}" else pairs), place + 1
