"""From the name of a source to its data: a file, a pattern, a folder, a folder of save_to_disk, the Hub."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hftrain.config.sources import MARKS, marked_file, read_source
from hftrain.data.json_rows import read_json
from hftrain.data.lines import PACKED, USUAL, Dialect, Fault
from hftrain.data.readers import (
    Item,
    check_text,
    did_you_mean,
    read_aligned,
    read_csv,
    read_fields,
    read_tsv,
    read_xlsx,
)
from hftrain.data.tables import (
    Tables,
    arrow_tables,
    hub_tables,
    is_saved,
    parquet_tables,
    read_tables,
    saved_splits,
    saved_tables,
)
from hftrain.data.unread import Unread

logger = logging.getLogger(__name__)

JSON_LINES = (".jsonl", ".ndjson", ".jsonlines", ".jl")
JSON = (".json", *JSON_LINES)
COLUMNAR: dict[str, Callable[[Path], Tables]] = {
    ".parquet": parquet_tables,
    ".arrow": arrow_tables,
    ".feather": arrow_tables,
}
TEXTUAL: dict[str, Callable[[Path, list[str], Dialect, Unread | None], Iterator[Item]]] = {
    **dict.fromkeys(JSON, read_json),
    ".csv": read_csv,
    **dict.fromkeys((".tsv", ".tab"), read_tsv),
    ".xlsx": read_xlsx,
}
SPREADSHEETS = (".csv", ".xlsx")  # never CoNLL's columns, as a tsv file may have
PLAIN = (".txt", ".text", ".md")
KNOWN = "json, jsonl, ndjson, csv, tsv, xlsx, parquet, arrow; txt, md for plain text"
WAYS_OUT = {
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), "unpack it"),
    **dict.fromkeys((".xls", ".ods"), "save its sheet as .xlsx or .csv"),
}
# Words in the name of a file or folder -> its split; files that describe a data set.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NO_DATA = re.compile(r"(readme|licen[cs]e|notice|citation|dataset_infos?\.json|dataset_dict\.json|state\.json)", re.I)


class Reader(NamedTuple):
    """An opened file: its name, the unit of a place in it ("line", "row"), and the name of each value of a row."""

    file: str
    unit: str
    names: list[str]
    items: Iterator[Item]


def open_rows(
    source: str,
    columns: dict[str, str],
    split: str | None = None,
    config_name: str | None = None,
    languages: Sequence[str] = (),
    dialect: Dialect = USUAL,
    reader: Callable[[Path], Iterator[Item] | Reader | None] | None = None,
    unread: Unread | None = None,
    endings: Sequence[str] = (),
    resolve: Callable[[Path, list[Any]], list[Any]] | None = None,
) -> Iterator[Reader]:
    """A reader for each file of a source; `columns` and the rest are those of `load_rows`."""
    wanted = list(columns.values())
    named = [f"column {column!r}" for column in wanted]
    path = Path(source)
    if "{lang}" in source:
        if len(languages) != len(columns):
            raise ValueError(
                f"{source}: {{lang}} needs {len(columns)} languages ({', '.join(columns)}), "
                f"not {list(languages)}; set source_lang and target_lang"
            )
        paths = [existing(Path(source.replace("{lang}", language))) for language in languages]
        yield Reader(source, "line", [path.name for path in paths], read_aligned(paths, dialect.encoding))
    elif path.is_dir() and is_saved(path):
        yield Reader(source, "row", named, read_tables(source, saved_tables(path, split), wanted, unread))
    elif is_hub_name(source) or (path.is_dir() and config_name):
        yield Reader(source, "row", named, read_tables(source, hub_tables(source, config_name, split), wanted, unread))
    else:
        for file in find_files(source, split, endings):
            items = reader(file) if reader else None
            if items is None:
                opened = open_file(file, columns, dialect, unread)
            else:
                opened = items if isinstance(items, Reader) else Reader(str(file), "line", list(columns), items)
            yield opened._replace(items=_resolved(file, opened.items, resolve)) if resolve else opened


def _resolved(file: Path, items: Iterator[Item], resolve: Callable[[Path, list[Any]], list[Any]]) -> Iterator[Item]:
    for number, values in items:
        yield number, values if isinstance(values, Fault) else resolve(file, values)


def open_file(path: Path, columns: dict[str, str], dialect: Dialect = USUAL, unread: Unread | None = None) -> Reader:
    """The reader of a file, by its ending. Raises: ValueError, the ending is unknown."""
    wanted = list(columns.values())
    named = [f"column {column!r}" for column in wanted]
    kind = check_ending(path)
    if kind in COLUMNAR:
        return Reader(str(path), "row", named, read_tables(str(path), COLUMNAR[kind](path), wanted, unread))
    if kind in TEXTUAL:
        return Reader(str(path), "line", named, TEXTUAL[kind](path, wanted, dialect, unread))
    check_text(path, dialect.encoding)
    names = [f"field {number} ({name})" for number, name in enumerate(columns, 1)]
    lines = read_fields(path, list(columns), dialect)
    if wanted == [""]:
        lines = ((number, line if isinstance(line, Fault) else [{"text": line[0]}]) for number, line in lines)
    return Reader(str(path), "line", names, lines)


def ending(path: Path) -> str:
    """The ending of a name in lower case, without that of compression."""
    path = Path(path.name.lower())
    return path.with_suffix("").suffix if path.suffix in PACKED else path.suffix


def check_ending(path: Path) -> str:
    """The ending. Raises: ValueError, it is unknown, or a file that is packed by its nature is compressed again."""
    kind = ending(path)
    if kind in (*COLUMNAR, ".xlsx") and path.suffix.lower() in PACKED:
        raise ValueError(f"{path}: a compressed {kind[1:]} file cannot be read: decompress it")
    if kind in (*COLUMNAR, *TEXTUAL, *PLAIN):
        return kind
    way_out = WAYS_OUT.get(kind, "rename it (to .txt, if it is plain text)")
    problem = f"the ending {kind} is not known" if kind else "the name has no ending"
    raise ValueError(f"{path}: {problem} (known: {KNOWN}): {way_out}")


def has_rows(path: Path) -> bool:
    """Whether a file is a table of rows by its ending."""
    return ending(path) in (*COLUMNAR, *TEXTUAL)


def find_files(source: str, split: str | None = None, endings: Sequence[str] = ()) -> list[Path]:
    """The file, or the files of a pattern or a folder, in the order of their names.

    In a folder, files are read if their names or folders contain `split` (or train, if `split` is None and there are no
    others); all files, if no name contains a split. The log names the files that are not read.

    Raises:
        ValueError: there are no files, or the choice is ambiguous.
    """
    path = Path(source)
    if path.is_dir():
        return _files_of_split(path, split, endings)
    if not path.exists() and glob.has_magic(source):
        if files := [Path(file) for file in sorted(glob.glob(source, recursive=True)) if Path(file).is_file()]:
            return files
        raise ValueError(f"no file matches {source}")
    return [existing(path)]


def _files_of_split(folder: Path, split: str | None, endings: Sequence[str]) -> list[Path]:
    files = _candidates(folder)
    by_split = _split_files(folder, files, endings)
    if not by_split:
        known = ", ".join([KNOWN, *(ending[1:] for ending in endings)])
        raise ValueError(f"{folder} has no data files (known endings: {known}) and was not written by save_to_disk")
    names = sorted(by_split.keys() - {""})
    if not names and split in (None, "train"):
        chosen = by_split[""]
    elif split is None and len(names) > 1:
        raise ValueError(
            f"{folder} has files of the splits {', '.join(names)}: set dataset_name to it to read each as its "
            f"split, or choose files with a pattern, as in {folder / (names[-1] + '*')}"
        )
    elif split is not None and split not in names:
        raise ValueError(f"{folder} has no split {split!r}" + (f", but {', '.join(names)}" if names else ""))
    else:
        chosen = by_split[split or names[0]]
    kinds = sorted({ending(file) for file in chosen} - set(endings))
    if len({COLUMNAR.get(kind, TEXTUAL.get(kind)) for kind in kinds}) > 1:
        raise ValueError(
            f"{folder} has files of several kinds, {', '.join(kinds)}: choose one kind with a pattern, as in "
            f"{folder / ('*' + kinds[0])}"
        )
    read = {file for name in (names if split else ()) for file in by_split[name]} | set(chosen)
    named = () if ending(chosen[0]) in endings else endings  # rows name such files
    left = [file for file in files if file not in read and ending(file) not in named]
    if left:
        shown = ", ".join(str(file.relative_to(folder)) for file in left[:5])
        logger.warning("%s: %d files are not read: %s%s", folder, len(left), shown, ", ..." if len(left) > 5 else "")
    return chosen


def split_names(folder: Path, endings: Sequence[str] = ()) -> list[str]:
    """Splits of a folder, by save_to_disk or the names of files; [] if there is only one without a name."""
    if is_saved(folder):
        return saved_splits(folder)
    files = _candidates(folder)
    return sorted(_split_files(folder, files, endings).keys() - {""})


def _split_files(folder: Path, files: Sequence[Path], endings: Sequence[str] = ()) -> dict[str, list[Path]]:
    """The data files of a folder by the split in their names; "" for other files. With `endings`, files with one of
    them if no other files have rows: FOLDER/SPLIT/CLASS/file, or FOLDER/CLASS/file."""
    by_split: dict[str, list[Path]] = {}
    if endings and not any(ending(file) in (*COLUMNAR, *TEXTUAL) for file in files):
        return _files_of_classes(folder, [file for file in files if ending(file) in endings])
    for file in files:
        if ending(file) in (*COLUMNAR, *TEXTUAL, *PLAIN):
            by_split.setdefault(split_of(file.relative_to(folder).parts), []).append(file)
    return by_split


def split_of(parts: Sequence[str]) -> str:
    """The split that the last part with such a word names; "" if none does."""
    words = (SPLIT_WORDS.get(word) for part in reversed(parts) for word in re.split("[^a-z]+", part.lower()))
    return next(filter(None, words), "")


def _files_of_classes(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files in folders of classes by split, FOLDER/CLASS/file or FOLDER/SPLIT/CLASS/file, also one folder deeper if
    FOLDER contains only that one. A file outside of them is left out.

    Raises:
        ValueError: there are no folders of classes, or a file is deeper.
    """
    places = {file: file.relative_to(folder).parts[:-1] for file in files}
    deepest = max(map(len, places.values()), default=1)
    levels = list(zip(*places.values(), strict=False))[: deepest - 1]  # names of folders, but of no class
    common = next((depth for depth, names in enumerate(levels) if len({*names}) > 1 or split_of(names)), len(levels))
    places = {file: parts[common:] for file, parts in places.items() if parts[common:]}
    if files and not places:
        raise ValueError(f"{folder} has files but no folder for each class: put them into {folder}/CLASS/")
    by_split: dict[str, list[Path]] = {}
    for file, (*above, _) in places.items():
        split = split_of(above)
        if len(above) > bool(split):
            raise ValueError(f"{file} is too deep in {folder}: a file's class is the folder in FOLDER/CLASS/file")
        by_split.setdefault(split, []).append(file)
    classes = {parts[-1].lower() for parts in places.values()}
    if classes and classes <= SPLIT_WORDS.keys():
        raise ValueError(
            f"{folder} has folders of splits ({', '.join(sorted(classes))}) without a folder for each class"
        )
    return by_split


def _candidates(folder: Path) -> list[Path]:
    """The files that may have data."""
    return [file for file in visible_files(folder) if not NO_DATA.match(file.name)]


def visible_files(folder: Path) -> list[Path]:
    """All files in a folder and, also behind links, in the folders below it; without those that begin with . or __"""
    files: list[Path] = []
    visited: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in visited:
            folders.clear()  # a link to a folder above
            continue
        visited.add(os.path.realpath(place))
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        files += [Path(place) / name for name in names if not name.startswith((".", "__"))]
    return sorted(files)


def require_files(config: object) -> None:
    """Raises: ValueError, a file that a data setting names is missing. Patterns and addresses are not looked up."""
    for setting in ("train_file", "validation_file", "test_file"):
        for written in getattr(config, setting, None) or ():
            name = os.path.expanduser(read_source(written).name)
            if glob.has_magic(name) or "{" in name or "://" in name or Path(name).exists():
                continue
            parts = [os.path.expanduser(read_source(part.strip()).name) for part in name.split(",")]
            if len(parts) > 1 and all(part and Path(part).exists() for part in parts):
                raise ValueError(f"no file {name}: put blanks, not commas, between several files")
            if marked := marked_file(name):
                raise ValueError(f"no file {name}, but {marked} is there. {MARKS}")
            existing(Path(name))


def is_hub_name(source: str) -> bool:
    """Whether `source` can be a name on the Hub: it is not a local path and has no ending of a file."""
    kind = ending(Path(source))
    is_file_name = kind in (*COLUMNAR, *TEXTUAL, *PLAIN, *WAYS_OUT)
    if kind and Path(source).parent.is_dir():  # a misspelt file name
        is_file_name |= bool(did_you_mean(source, map(str, Path(source).parent.iterdir())))
    return not is_file_name and not Path(source).exists() and bool(re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source))


def existing(path: Path) -> Path:
    """`path`, an existing file. Raises: ValueError, with the most similar name beside it."""
    if path.is_file():
        return path
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ValueError(f"no file {path}" + did_you_mean(path.name, beside))
