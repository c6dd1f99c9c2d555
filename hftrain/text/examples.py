"""Rows as tokenized examples, cached on disk by a key of everything that they depend on; examples as padded tensors.

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
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import PreTrainedTokenizerBase

import hftrain
from hftrain.data.examples import Examples
from hftrain.data.files import cache, sha256_of, staged
from hftrain.data.rows import Rows, fingerprint

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

WHERE_FROM = {"is_local", "local_files_only", "name_or_path"}  # settings of a saved tokenizer that do not change tokens
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
    """The examples that `convert` makes of `rows`, cached on disk and memory-mapped. The key depends on the rows, the
    tokenizer, `arguments`, and the code: the version and all modules of this package, and the file of `convert`. A
    second start with the same key reads the cache. With several processes:
    `with accelerator.local_main_process_first(): examples = tokenized(...)`.

    Args:
        convert: a Python function: a batch of rows (column -> values) -> any number of examples (column of `schema` ->
            values) and counts, for instance {"truncated": 3}.
        schema: the schema of the examples; `TOKENS` is the type of token ids.
        arguments: everything else that the result depends on, as JSON.
        lengths: columns whose tokens are the examples' lengths.
        cache_dir: the default is a folder in the cache of `datasets` (HF_DATASETS_CACHE, HF_HOME).

    Returns:
        The examples with the sums of the counts. Their fingerprint depends on the rows and on the content of the
        examples: it stays if other code makes the same examples.
    """
    import datasets

    rows = Rows.of(rows)
    read = fingerprint(rows)
    folder = Path(cache_dir or cache()) / _key(read, tokenizer, convert, schema, arguments)
    if folder.exists() and (damage := _damage(folder)):
        logger.warning("the tokenized data in %s are damaged (%s) and will be made again", folder, damage)
        shutil.rmtree(folder)
    if not folder.exists():
        counts: Counter[str] = Counter()
        with staged(folder) as stage:
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
    # not the fingerprint of `datasets`, which depends on the file's date
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
    """sha256 (hex) of this package's version and all its modules, so that we need no list of those that make
    examples."""
    root = Path(hftrain.__file__).parent
    digest = hashlib.sha256(hftrain.__version__.encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 (hex) of everything that `tokenizer` would save, its class, and the versions of its libraries."""
    import tokenizers
    import transformers

    tokenizer("a")  # a plain call resets the truncation and padding of the last call, which it would save
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
    """A description of the damage of a cached folder, or None."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        intact = manifest["content"] and sha256_of(folder / "examples.arrow") == manifest["sha256"]
        return None if intact else "wrong checksum"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"


def of_split(rows: Rows | Dataset) -> str:
    """The begin of a message about rows: their split, if it is known: "train: "."""
    return f"{rows.split}: " if rows.split else ""


def list_lengths(examples: Dataset, columns: Sequence[str]) -> np.ndarray:
    """(N, K) int64: the lengths of the lists of each example in each of K columns, from their offsets."""
    tables: Iterator[pa.Table] = examples.select_columns(list(columns)).with_format("arrow").iter(100_000)
    counted = [np.stack([pc.list_value_length(table.column(name)) for name in columns], axis=1) for table in tables]
    return np.concatenate([np.zeros((0, len(columns))), *counted]).astype(np.int64)


def pad(
    sequences: Sequence[torch.Tensor | np.ndarray | Sequence[int]], value: int, multiple: int = 1, side: str = "right"
) -> torch.Tensor:
    """(B, T) int64: sequences padded on a side with `value` to the longest, T rounded up to a multiple."""
    filled = _filled(sequences, multiple, side)
    padded = np.full(filled.shape, value, dtype=np.int64)
    padded[filled] = np.concatenate(sequences, dtype=np.int64, casting="unsafe")  # an empty list counts as floats
    return torch.from_numpy(padded)


def attention_mask(sequences: Sequence[Sized], multiple: int = 1, side: str = "right") -> torch.Tensor:
    """(B, T) int64: 1 where `pad` puts a token of the sequences, 0 where it puts padding."""
    return torch.from_numpy(_filled(sequences, multiple, side).astype(np.int64))


def _filled(sequences: Sequence[Sized], multiple: int, side: str) -> np.ndarray:
    """(B, T) bool: where the tokens of padded sequences stand."""
    sizes = np.array([len(sequence) for sequence in sequences])
    places = np.arange(-(-sizes.max() // multiple) * multiple)
    return (places if side == "right" else places[::-1]) < sizes[:, None]
