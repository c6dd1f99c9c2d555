"""Rows as tokenized examples, kept on disk under a key of everything they were made from; examples as padded tensors.

Shapes: B examples of a batch, T tokens, N examples of a data set.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import PreTrainedTokenizerBase

import hftrain
from hftrain.data.examples import Examples
from hftrain.data.files import cache, sha256_of, whole
from hftrain.data.rows import Rows, fingerprint

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

WHERE_FROM = {"is_local", "local_files_only", "name_or_path"}  # settings of a saved tokenizer that change no token
BATCH_ROWS = 1_000
TOKENS = pa.list_(pa.int32())


def tokenized(
    rows: Rows | Dataset,
    tokenizer: PreTrainedTokenizerBase,
    convert: Callable[[dict[str, list[Any]]], tuple[Mapping[str, list[Any]], Mapping[str, int]]],
    *,
    schema: pa.Schema,
    arguments: object,
    lengths: Sequence[str] = ("input_ids",),
    cache_dir: str | Path | None = None,
) -> Examples:
    """What `convert` makes of `rows`, kept on disk, memory-mapped, under a key made of the rows, the whole tokenizer,
    `arguments`, and the code: the version and every module of this package, and the file that `convert` is written in.
    A second start with the same key finds it there. On several
    processes: `with accelerator.local_main_process_first(): examples = tokenized(...)`.

    Args:
        convert: a function of Python: a batch of rows (column -> values) -> examples (column of `schema` -> values, as
            many as it likes) and counts of what it did, for instance {"truncated": 3}.
        schema: of the examples; `TOKENS` is the type of token ids.
        arguments: everything else that the result depends on, as JSON can hold it.
        lengths: columns whose tokens are the examples' lengths.
        cache_dir: the default is a folder in the cache of `datasets` (HF_DATASETS_CACHE, HF_HOME).

    Returns:
        The examples with the sums of the counts. Their fingerprint is of the rows and of what the examples hold: other
        code that makes the same of them leaves it as it is.
    """
    import datasets

    rows = Rows.of(rows)
    read = fingerprint(rows)
    folder = Path(cache_dir or cache()) / _key(read, tokenizer, convert, schema, arguments)
    if folder.exists() and (damage := _damage(folder)):
        logger.warning("the tokenized data in %s are damaged (%s) and are made again", folder, damage)
        shutil.rmtree(folder)
    if not folder.exists():
        counts: Counter[str] = Counter()
        with whole(folder) as stage:
            with pa.OSFile(str(stage / "examples.arrow"), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
                for batch in rows.iter(BATCH_ROWS):
                    columns, counted = convert(batch)
                    arrays = [pa.array(columns[field.name], field.type) for field in schema]
                    stream.write_batch(pa.record_batch(arrays, schema=schema))
                    counts.update(counted)
            tokenizer("a")  # see fingerprint_tokenizer
            made = datasets.Dataset.from_file(str(stage / "examples.arrow"))
            content = hashlib.sha256(f"{read} {fingerprint(made)}".encode()).hexdigest()
            manifest = {"sha256": sha256_of(stage / "examples.arrow"), "counts": counts, "content": content}
            (stage / "manifest.json").write_text(json.dumps(manifest))
    made = datasets.Dataset.from_file(str(folder / "examples.arrow"))
    manifest = json.loads((folder / "manifest.json").read_text())
    # not the fingerprint of `datasets`, which looks at the file's date
    measured = list_lengths(made, lengths)
    return Examples(made, measured, counts=manifest["counts"], fingerprint=manifest["content"], rows=rows)


def _key(
    read: str, tokenizer: PreTrainedTokenizerBase, convert: Callable[..., Any], schema: pa.Schema, arguments: object
) -> str:
    digest = hashlib.sha256(_package().encode() + Path(convert.__code__.co_filename).read_bytes())
    digest.update(json.dumps([read, fingerprint_tokenizer(tokenizer), str(schema), arguments]).encode())
    return digest.hexdigest()


@functools.cache
def _package() -> str:
    """sha256 (hex) of this package's version and of all its modules: which of them make examples need not be listed."""
    root = Path(hftrain.__file__).parent
    digest = hashlib.sha256(hftrain.__version__.encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 (hex) of everything that `tokenizer` would save, its class, and the versions of the libraries it runs
    on."""
    import tokenizers
    import transformers

    tokenizer("a")  # a plain call makes it forget the truncation and padding of the last, which it would save
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            content = path.read_bytes()
            if path.name == "tokenizer_config.json":
                settings = json.loads(content).items()
                content = json.dumps([item for item in settings if item[0] not in WHERE_FROM]).encode()
            digest.update(path.name.encode() + content)
    digest.update(json.dumps([type(tokenizer).__name__, transformers.__version__, tokenizers.__version__]).encode())
    return digest.hexdigest()


def _damage(folder: Path) -> str | None:
    """Why what is written there is not what was written, or None."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        intact = manifest["content"] and sha256_of(folder / "examples.arrow") == manifest["sha256"]
        return None if intact else "wrong checksum"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"


def of_split(rows: Rows | Dataset) -> str:
    """Begins a message about rows with their split, if that is known: "train: "."""
    return f"{rows.split}: " if rows.split else ""


def list_lengths(examples: Dataset, columns: Sequence[str]) -> np.ndarray:
    """(N, K) int64: how long the lists of each example are in each of K columns, from their offsets alone."""
    tables: Iterator[pa.Table] = examples.select_columns(list(columns)).with_format("arrow").iter(100_000)
    counted = [np.stack([pc.list_value_length(table.column(name)) for name in columns], axis=1) for table in tables]
    return np.concatenate([np.zeros((0, len(columns))), *counted]).astype(np.int64)


def pad(
    sequences: Sequence[torch.Tensor | Sequence[int]], value: int, multiple: int = 1, side: str = "right"
) -> torch.Tensor:
    """(B, T) int64: sequences padded on a side with `value` to the longest, T rounded up to a multiple."""
    width = -(-max(map(len, sequences)) // multiple) * multiple
    padded = torch.full((len(sequences), width), value, dtype=torch.int64)
    for row, tokens in zip(padded, sequences, strict=True):
        row[slice(len(tokens)) if side == "right" else slice(width - len(tokens), None)] = torch.as_tensor(tokens)
    return padded
