"""The cells of an Excel workbook (.xlsx), read as its sheet saved as csv would be: everything is text, dates as
2026-11-28 or 2026-11-28 09:30:00."""

from __future__ import annotations

import logging
import re
import zipfile
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

logger = logging.getLogger(__name__)

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)  # RuntimeError: encrypted, or an unknown compression
DATE_FORMATS = {*range(14, 23), 45, 46, 47}
LINK = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def read_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the row, its cells) of the first sheet that is not a chart, as many cells as the first row has, or
    more; "" is an empty one. Empty rows are left out.

    Raises:
        ValueError: the file is damaged, or no workbook.
    """
    try:
        with zipfile.ZipFile(path) as book:
            workbook = ElementTree.fromstring(book.read("xl/workbook.xml"))
            texts, dates = _shared_texts(book), _dates(book, workbook)
            width = 0
            with book.open(_first_sheet(path, book, workbook)) as file:
                for _, row in ElementTree.iterparse(file):
                    if row.tag != f"{MAIN}row":
                        continue
                    cells = {_column(cell, place): _text(cell, texts, dates) for place, cell in enumerate(row)}
                    filled = max((place + 1 for place, text in cells.items() if text), default=0)
                    width = width or filled
                    if filled:
                        yield int(row.get("r", "0")), [cells.get(place, "") for place in range(max(width, filled))]
                    row.clear()
    except (*DAMAGE, ElementTree.ParseError, KeyError, IndexError, ValueError, OSError) as error:
        raise ValueError(f"{path} is not a readable Excel workbook: {error}. Save its sheet as .csv") from None


def _first_sheet(path: Path, book: zipfile.ZipFile, workbook: ElementTree.Element) -> str:
    files = {
        link.get("Id"): str(link.get("Target"))
        for link in ElementTree.fromstring(book.read("xl/_rels/workbook.xml.rels"))
        if not str(link.get("Type")).endswith(("/chartsheet", "/dialogsheet"))  # without cells
    }
    sheets = [sheet for sheet in workbook.iter(f"{MAIN}sheet") if sheet.get(LINK) in files]
    if len(sheets) > 1:
        names = [str(sheet.get("name")) for sheet in sheets]
        logger.warning("%s: of its sheets %s the first, %s, is read", path, ", ".join(names), names[0])
    target = files[sheets[0].get(LINK)]
    return target.removeprefix("/") if target.startswith("/") else f"xl/{target}"


def _shared_texts(book: zipfile.ZipFile) -> list[str]:
    if "xl/sharedStrings.xml" not in book.namelist():
        return []
    return [_joined(item) for item in ElementTree.fromstring(book.read("xl/sharedStrings.xml"))]


def _joined(item: ElementTree.Element) -> str:
    """The text of an item, whose parts may differ in font; how it is pronounced (rPh) is left out."""
    parts = [item.find(f"{MAIN}t"), *(run.find(f"{MAIN}t") for run in item.iter(f"{MAIN}r"))]
    return "".join(part.text or "" for part in parts if part is not None)


def _column(cell: ElementTree.Element, place: int) -> int:
    """The column of a cell, from 0: AB7 is 27; where it is not named, `place`."""
    number = 0
    for letter in filter(str.isalpha, cell.get("r", "")):
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1 if number else place


class Dates(NamedTuple):
    """How to read numbers as dates: the styles of cells that show one, and the day 0."""

    styles: frozenset[int]
    origin: datetime


def _dates(book: zipfile.ZipFile, workbook: ElementTree.Element) -> Dates:
    """ECMA-376 part 1, 18.8.30: numbers of built-in formats, and codes of others."""
    properties = workbook.find(f"{MAIN}workbookPr")
    from_1904 = properties is not None and properties.get("date1904") in ("1", "true")
    origin = datetime(1904, 1, 1) if from_1904 else datetime(1899, 12, 30)
    if "xl/styles.xml" not in book.namelist():
        return Dates(frozenset(), origin)
    styles = ElementTree.fromstring(book.read("xl/styles.xml"))
    codes = {int(code.get("numFmtId", 0)): code.get("formatCode", "") for code in styles.iter(f"{MAIN}numFmt")}
    formats = styles.find(f"{MAIN}cellXfs")
    numbers = [int(style.get("numFmtId", 0)) for style in ([] if formats is None else formats)]
    shown = {
        place for place, number in enumerate(numbers) if number in DATE_FORMATS or _shows_date(codes.get(number, ""))
    }
    return Dates(frozenset(shown), origin)


def _shows_date(code: str) -> bool:
    return bool(re.search("[dmyhs]", re.sub(r'"[^"]*"|\\.|\[[^\]]*\]', "", code.lower()).replace("general", "")))


def _text(cell: ElementTree.Element, texts: list[str], dates: Dates) -> str:
    kind, value = cell.get("t", "n"), cell.findtext(f"{MAIN}v") or ""
    if kind == "inlineStr":
        inline = cell.find(f"{MAIN}is")
        return "" if inline is None else _joined(inline)
    if kind == "s":
        return texts[int(value)]
    if kind == "b":
        return "TRUE" if value == "1" else "FALSE"
    if kind == "n" and value:
        number = float(value)
        if int(cell.get("s", 0)) in dates.styles:
            moment = dates.origin + timedelta(seconds=round(number * 86_400))
            if 0 <= number < 1:
                return moment.time().isoformat()
            return moment.date().isoformat() if number.is_integer() else moment.isoformat(" ")
        return str(int(number)) if number.is_integer() else repr(number)
    return value
