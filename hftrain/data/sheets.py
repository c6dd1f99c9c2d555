"""The cells of an Excel workbook (.xlsx), read as its sheet saved as csv would be: everything is text."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

logger = logging.getLogger(__name__)

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
LINK = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def read_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the row, its cells) of the first sheet, as many cells as the first row has, or more; "" is an empty
    one. Empty rows are left out.

    Raises:
        ValueError: the file is damaged, or no workbook.
    """
    try:
        with zipfile.ZipFile(path) as book:
            texts = _shared_texts(book)
            width = 0
            with book.open(_first_sheet(path, book)) as file:
                for _, row in ElementTree.iterparse(file):
                    if row.tag != f"{MAIN}row":
                        continue
                    cells = {_column(cell, place): _text(cell, texts) for place, cell in enumerate(row)}
                    filled = max((place + 1 for place, text in cells.items() if text), default=0)
                    width = width or filled
                    if filled:
                        yield int(row.get("r", "0")), [cells.get(place, "") for place in range(max(width, filled))]
                    row.clear()
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, IndexError, ValueError, OSError) as error:
        raise ValueError(f"{path} is not a readable Excel workbook: {error}. Save its sheet as .csv") from None


def _first_sheet(path: Path, book: zipfile.ZipFile) -> str:
    sheets = list(ElementTree.fromstring(book.read("xl/workbook.xml")).iter(f"{MAIN}sheet"))
    files = {
        link.get("Id"): str(link.get("Target"))
        for link in ElementTree.fromstring(book.read("xl/_rels/workbook.xml.rels"))
    }
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


def _text(cell: ElementTree.Element, texts: list[str]) -> str:
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
        return str(int(number)) if number.is_integer() else repr(number)
    return value
