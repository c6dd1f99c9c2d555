"""The texts of a source one after another, whatever its size, with a position to continue reading from."""

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
    """Texts of files, or of one folder of save_to_disk; iteration yields each text, or a `BadRow` for a row without
    text.

    Attributes:
        position: where the next iteration begins, as JSON: the file and the number of its rows already read.
        files: their content is the content of the source, together with
        version: everything else that decides what is read, as JSON.
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

    def _digest(self, document: str) -> int:
        # another hash than that of validation_split, so that both choices are independent
        key = self.seed.to_bytes(8, "big", signed=True)
        return int.from_bytes(
            hashlib.blake2b(document.encode(), digest_size=8, key=key, person=b"limit").digest(), "big"
        )

    def _last_of_limit(self, limit: int) -> int:
        """The largest hash among the first `limit` documents by hash, over all files; equal texts are all in or all
        out."""
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
                    document: str | BadRow = text(values[0], reader.names[0])
                except Fault as fault:
                    document = BadRow(path, f"{reader.unit} {place}", str(fault), fault.advice)
                yield document
            skip = 0

    def _open(self, path: str) -> Reader:
        if Path(path).is_file() and check_ending(Path(path)) in PLAIN:
            check_text(Path(path), self.dialect.encoding)
            return Reader(path, "line", ["the text"], read_documents(Path(path), self.document, self.dialect.encoding))
        return next(open_rows(path, {"text": self.column}, self.split, dialect=self.dialect))


class Stream:
    """Texts of a data set that `datasets` streams, in its order, without a copy on the disk; otherwise as `Files`.

    It is not shuffled and therefore continues exactly (a shuffled stream would lose the rows in its buffer).
    """

    def __init__(self, name: str, column: str, split: str = "train", config_name: str | None = None):
        from datasets import load_dataset_builder

        self.name, self.column, self.rows = name, column, 0
        self.files = _files_of(Path(name))
        try:
            builder = load_dataset_builder(name, config_name)
            dataset = builder.as_streaming_dataset(split=split)
        except Exception as error:  # the Hub client, the network and the data set's files raise any kind of error
            raise ValueError(f"{name!r} cannot be streamed: {type(error).__name__}: {error}") from error
        names = [str(path.relative_to(name)) for path in self.files]  # they name the files of each split
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
                document: str | BadRow = text(pick(row, self.column), f"column {self.column!r}")
            except Fault as fault:
                document = BadRow(self.name, f"row {self.rows}", str(fault))
            yield document


def open_source(
    source: str,
    column: str = "text",
    document: Document = "line",
    dialect: Dialect = USUAL,
    limit: int | None = None,
    seed: int = 0,
) -> Files | Stream:
    """The texts of a source by its name, as `hftrain.tasks.pretraining.prepare.prepare` describes names.

    With a `limit`, only the texts with the lowest hashes are used.

    Raises:
        ValueError: the source or the column does not exist.
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
                f"{source}: a streamed data set cannot have a limit (#), since that must read all of it: set "
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
    bad: list[BadRow]  # rows between them without text
    position: Any  # of the source after these texts


def batches(source: Files | Stream, characters: int, max_bad_rows: int) -> Iterator[Batch]:
    """Batches of the texts from `source.position` on, of at least `characters` characters except the last; a batch also
    ends when its bad rows alone are too many, and enough of them can be shown."""
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
