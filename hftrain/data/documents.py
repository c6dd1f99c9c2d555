"""The texts of a source one after another, whatever its size, with a place from which to read on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hftrain.data.lines import USUAL, Dialect, Fault
from hftrain.data.readers import check_text, missing, pick, read_documents, text
from hftrain.data.rows import BadRow
from hftrain.data.sources import JSON_LINES, PLAIN, Reader, check_ending, ending, find_files, is_hub_name, open_rows
from hftrain.data.tables import is_saved

Document = Literal["line", "paragraph", "file"]


class Files:
    """Texts of files, or of one folder of save_to_disk; iterating gives each text, or why a row has no text.

    Attributes:
        position: where the next iteration begins, as JSON can hold it: file, rows of it that are read.
        files: whose content is the source's content, together with
        version: whatever else decides what is read, as JSON can hold it.
    """

    def __init__(
        self,
        paths: list[str],
        column: str,
        document: Document,
        split: str | None = None,
        dialect: Dialect = USUAL,
        limit: int | None = None,
        seed: int = 0,
    ):
        self.paths, self.column, self.document, self.split, self.dialect = paths, column, document, split, dialect
        self.limit, self.seed = limit, seed
        self.position = [0, 0]
        self.files = [inside for path in paths for inside in _files_of(Path(path))]
        kinds = (".jsonl" if (kind := ending(path)) in JSON_LINES else kind for path in self.files)
        self.version = ["files", split, *(() if dialect == USUAL else dialect[:2]), *dialect.column_names, *kinds]
        if limit is not None:
            self.version += ["limit", limit, seed]

    def __iter__(self) -> Iterator[str | BadRow]:
        if self.limit is None:
            yield from self._all()
            return
        last = self._last_of_limit(self.limit)
        for item in self._all():
            if not isinstance(item, str) or self._digest(item) <= last:
                yield item

    def _digest(self, said: str) -> int:
        # not the hash that sets documents aside, which would come first in both
        key = self.seed.to_bytes(8, "big", signed=True)
        return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8, key=key, person=b"limit").digest(), "big")

    def _last_of_limit(self, limit: int) -> int:
        """The largest hash of the first `limit` documents by hash, of all files; of equal texts all count or none."""
        every = Files(self.paths, self.column, self.document, self.split, self.dialect)
        digests = sorted(self._digest(item) for item in every if isinstance(item, str))
        if limit >= len(digests):
            return 1 << 64
        smaller = [digest for digest in digests[:limit] if digest < digests[limit]]
        return smaller[-1] if smaller else digests[0]

    def _all(self) -> Iterator[str | BadRow]:
        first, skip = self.position
        for number, path in enumerate(self.paths[first:], first):
            reader = self._open(path)
            for row, (place, values) in enumerate(islice(reader.items, skip, None), skip + 1):
                self.position = [number, row]
                try:
                    if isinstance(values, Fault):
                        raise values
                    said: str | BadRow = text(values[0], reader.names[0])
                except Fault as fault:
                    said = BadRow(path, f"{reader.unit} {place}", str(fault), fault.advice)
                yield said
            skip = 0

    def _open(self, path: str) -> Reader:
        if Path(path).is_file() and check_ending(Path(path)) in PLAIN:
            check_text(Path(path), self.dialect.encoding)
            return Reader(path, "line", ["the text"], read_documents(Path(path), self.document, self.dialect.encoding))
        return next(open_rows(path, {"text": self.column}, self.split, dialect=self.dialect))


class Stream:
    """Texts of a data set that `datasets` streams, in its order, without a copy on the disk; otherwise as `Files`.

    It is not shuffled, and so goes on exactly where it stood (a shuffled one would lose what its buffer held).
    """

    def __init__(self, name: str, column: str, split: str = "train", config_name: str | None = None):
        from datasets import load_dataset_builder

        self.name, self.column, self.rows = name, column, 0
        self.files = _files_of(Path(name))
        try:
            builder = load_dataset_builder(name, config_name)
            dataset = builder.as_streaming_dataset(split=split)
        except Exception as error:  # the Hub client, the network and the data set's own files all raise what they like
            raise ValueError(f"{name!r} cannot be streamed: {type(error).__name__}: {error}") from error
        names = [str(path.relative_to(name)) for path in self.files]  # they say what is in which split
        self.version = ["stream", config_name, split, *(names or [builder.hash, builder.config_id])]
        features = dataset.features or {}
        head = column if column in features else column.split(".")[0]
        if features and head not in features:
            raise ValueError(f"{name}: {missing(column, features)}")
        self.dataset = dataset.select_columns(head) if features else dataset

    @property
    def position(self) -> Any:
        return [self.rows, self.dataset.state_dict()]

    @position.setter
    def position(self, position: Any) -> None:
        self.rows, state = position
        self.dataset.load_state_dict(state)

    def __iter__(self) -> Iterator[str | BadRow]:
        for row in self.dataset:
            self.rows += 1
            try:
                said: str | BadRow = text(pick(row, self.column), f"column {self.column!r}")
            except Fault as fault:
                said = BadRow(self.name, f"row {self.rows}", str(fault))
            yield said


def open_source(
    source: str,
    column: str = "text",
    document: Document = "line",
    dialect: Dialect = USUAL,
    limit: int | None = None,
    seed: int = 0,
) -> Files | Stream:
    """The texts of a source, named as `hftrain.tasks.pretraining.prepare.prepare` says.

    With a `limit`, the texts whose hash comes first are taken.

    Raises:
        ValueError: there is nothing of this name, or no such column.
    """
    path = Path(source).expanduser()
    name, *parts = [str(path)] if path.exists() else source.split(":")
    config_name, split = [None, None, *parts][-2:]
    folder = Path(name).expanduser()
    if folder.is_dir() and is_saved(folder):
        return Files([str(folder)], column, document, split, dialect, limit, seed)
    if is_hub_name(name) or (folder.is_dir() and config_name):
        if limit is not None:
            raise ValueError(
                f"{source}: a data set that is streamed has no limit (#), which would have to read all of it: set "
                "max_train_tokens"
            )
        return Stream(str(folder), column, split or "train", config_name)
    files = find_files(str(folder), split or "train") if folder.is_dir() else find_files(str(path))
    return Files([str(file) for file in files], column, document, None, dialect, limit, seed)


def _files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(inside for inside in path.rglob("*") if inside.is_file())


class Batch(NamedTuple):
    """Texts to be tokenized together."""

    texts: list[str]
    bad: list[BadRow]  # that stood between them
    position: Any  # of the source, after them


def batches(source: Files | Stream, characters: int, max_bad_rows: int) -> Iterator[Batch]:
    """The texts from `source.position` on, at least so many characters at a time, the last but fewer; a batch ends too
    where it alone has more bad rows than allowed, and enough to show."""
    texts: list[str] = []
    bad: list[BadRow] = []
    size = 0
    for item in source:
        if isinstance(item, BadRow):
            bad.append(item)
        else:
            texts.append(item)
            size += len(item)
        if size >= characters or len(bad) > max(max_bad_rows, 9):
            yield Batch(texts, bad, source.position)
            texts, bad, size = [], [], 0
    if texts or bad:
        yield Batch(texts, bad, source.position)
