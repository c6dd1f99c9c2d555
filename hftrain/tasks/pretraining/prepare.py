"""`hftrain prepare`: text into token files, once, before training. `hftrain.data.tokens` describes the files.

The main process reads rows in order, passes batches of texts to workers, receives the tokens in the same order, and
writes shards. Batches and shards depend only on the texts, so the files are the same for any number of workers and of
interruptions: `unfinished.json` lists the finished shards and where to continue reading.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase

import hftrain
from hftrain import disk
from hftrain.data.documents import Batch, Document, Files, Stream, batches, open_source
from hftrain.data.files import cache, cannot_write, sha256_of
from hftrain.data.lines import USUAL, Dialect
from hftrain.data.rows import BadRow, advice
from hftrain.data.tokens import FORMAT, MANIFEST
from hftrain.tasks.pretraining.encoding import Documents, Encoded, Encoder, available_cores, workers
from hftrain.text.examples import fingerprint_tokenizer
from hftrain.train.checkpoint import lock

logger = logging.getLogger(__name__)

UNFINISHED = "unfinished.json"
SHARD_TOKENS = 1 << 25
BATCH_CHARACTERS = 1 << 19  # a worker needs a few tenths of a second and some MB for it


def prepare(
    sources: Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str | Path | None = None,
    *,
    text_column: str = "text",
    document: Document = "line",
    validation_split: float = 0.0,
    seed: int = 42,
    max_tokens: int | None = None,
    max_bad_rows: int = 0,
    num_workers: int | None = None,
    dialect: Dialect = USUAL,
    shard_tokens: int = SHARD_TOKENS,
    limits: Mapping[str, int] | None = None,
) -> Path:
    """Tokenizes `sources` into a folder of token files. Only one process may call it.

    A document is a row's text, or a part of a text file. The tokenizer adds the special tokens that it puts around a
    text, and if it adds no end token (eos, or sep), that is appended. Special tokens written inside a text stay text.

    A folder belongs to a key: the content of the sources, the tokenizer, the settings. A finished folder is reused, an
    unfinished one is continued. Memory holds some batches of texts, whatever the size of the sources, but at least one
    document.

    Args:
        sources: name -> a file that `load_rows` reads, many (`data/*.jsonl`, or a folder, in the order of their names),
            a folder of save_to_disk (`folder:split`), or a name on the Hub, which `datasets` streams (`name:split`,
            `name:config:split`; without one, the split train).
        output_dir: the default is a folder in the cache of `datasets`, named by the key.
        text_column: a dot reaches into a nested column.
        document: unit of a document in a text file: a non-blank line, a paragraph between blank lines, or the file.
        validation_split: share of the documents that go into the split "validation", by a hash of `seed` and the text,
            so that equal texts are in the same split.
        max_tokens: limit for each source: reading ends after the batch of documents that reaches it.
        max_bad_rows: number of rows without usable text, over all sources, that may be left out; each is logged.
        num_workers: processes; the default is one per available core.
        dialect: delimiter and encoding of text files, if they are unusual.
        shard_tokens: tokens after which new files begin.
        limits: name -> number of documents of that source, chosen by a hash of `seed` and the text.

    Returns:
        The folder.

    Raises:
        ValueError: a source cannot be read, too many rows are bad, the tokenizer has no end token, or the folder holds
            other tokens or another process is writing it.
    """
    if not sources:
        raise ValueError("name at least one source")
    for name in sources:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(
                f"the name of a source is part of file names: use only letters, digits, - _ and ., not {name!r}"
            )
    if not 0 <= validation_split < 1:
        raise ValueError(f"validation_split must be a share of the documents under 1, not {validation_split}")
    encode = Encoder(tokenizer, validation_split, seed)
    opened = {
        name: open_source(source, text_column, document, dialect, (limits or {}).get(name), seed)
        for name, source in sources.items()
    }
    settings = {"text_column": text_column, "document": document, "validation_split": validation_split, "seed": seed}
    settings |= {"max_tokens": max_tokens, "shard_tokens": shard_tokens, "batch_characters": BATCH_CHARACTERS}
    made_from = {
        "format": FORMAT,
        "sources": [[name, fingerprint(source)] for name, source in opened.items()],
        "tokenizer": fingerprint_tokenizer(tokenizer),
        "settings": settings,
    }
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    folder = Path(output_dir or cache() / f"tokens-{key}")
    if _state(folder, key, made_from) == MANIFEST:
        logger.info("%s holds these tokens already: same texts, tokenizer and settings", folder)
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(cannot_write(folder, error)) from error
    with lock(folder):
        state = _state(folder, key, made_from)
        if state is None:
            made_by = {package.__name__: package.__version__ for package in (hftrain, transformers, tokenizers)}
            manifest = {"format": FORMAT, "key": key, "made_from": made_from, "made_by": made_by}
            manifest |= {"sources": dict(sources), "tokenizer": tokenizer.name_or_path, "end_token_id": encode.end}
            manifest |= {"vocab_size": encode.vocab_size, "dtype": encode.dtype, "bad_rows": 0, "shards": []}
            begin = {"position": None, "parts": 0, "tokens": 0, "ended": False}
            manifest["done"] = {name: dict(begin) for name in sources}
            tokenizer.save_pretrained(folder / "tokenizer")
            _save(folder, manifest)
        elif state == UNFINISHED:
            manifest = json.loads((folder / UNFINISHED).read_text())
            logger.info("continuing in %s, which has %d finished shards", folder, len(manifest["shards"]))
        if state != MANIFEST:
            with workers(encode, num_workers or available_cores()) as in_order:
                write(folder, manifest, opened, in_order, max_tokens, max_bad_rows, shard_tokens)
    return folder


def fingerprint(source: Files | Stream) -> str:
    """sha256 (hex) of what `source` yields: the content of its files in order, and how they are read."""
    with ThreadPoolExecutor() as pool:
        content = list(pool.map(sha256_of, source.files))
    return hashlib.sha256(json.dumps([content, source.version]).encode()).hexdigest()


def _state(folder: Path, key: str, made_from: Mapping[str, Any]) -> str | None:
    """Which of MANIFEST and UNFINISHED is in `folder`, if any. Raises: ValueError: it belongs to another key."""
    for name in (MANIFEST, UNFINISHED):
        if (folder / name).is_file():
            entry = json.loads((folder / name).read_text())
            if entry["key"] != key:
                other = [part for part in made_from if entry["made_from"].get(part) != made_from[part]]
                raise ValueError(
                    f"{folder} holds tokens made with other {' and '.join(other)}: "
                    "delete it, or choose another output_dir"
                )
            return name
    return None


def write(
    folder: Path,
    manifest: dict[str, Any],
    sources: Mapping[str, Files | Stream],
    in_order: Callable[[Iterator[Batch]], Iterator[tuple[Batch, Encoded]]],
    max_tokens: int | None,
    max_bad_rows: int,
    shard_tokens: int,
) -> None:
    """Writes the missing shards, and the manifest."""
    shards: dict[str, Shard] = {}  # by split, still being written
    bad: list[BadRow] = []
    began = logged = time.monotonic()
    written = 0

    def commit() -> None:
        manifest["shards"] += [shards[split].close() for split in sorted(shards)]
        done["parts"] += 1
        shards.clear()
        _save(folder, manifest)

    for name, source in sources.items():
        done = manifest["done"][name]
        if done["ended"]:
            continue
        if done["position"] is not None:
            source.position = done["position"]
        for batch, encoded in in_order(batches(source, BATCH_CHARACTERS, max_bad_rows)):
            bad += batch.bad
            manifest["bad_rows"] += len(batch.bad)
            if manifest["bad_rows"] > max_bad_rows:
                shown = "\n".join(f"  {row}" for row in bad[:10])
                raise ValueError(
                    f"at least {manifest['bad_rows']} rows cannot be used; max_bad_rows is {max_bad_rows}:\n{shown}\n"
                    f"{advice(bad)}"
                )
            for row in batch.bad:
                logger.warning("left out: %s", row)
            for split, documents in encoded.items():
                if split not in shards:
                    shards[split] = Shard(folder, name, split, done["parts"])
                shards[split].add(documents)
            count = sum(len(documents.tokens) for documents in encoded.values())
            written += count
            done["tokens"] += count
            done["position"] = batch.position
            if time.monotonic() > logged + 10:
                logged = time.monotonic()
                rate = written / (logged - began)
                logger.info("%s: %.1f million tokens, %.0f a second", name, done["tokens"] / 1e6, rate)
            if max_tokens and done["tokens"] >= max_tokens:
                break
            if sum(shard.tokens for shard in shards.values()) >= shard_tokens:
                commit()
        if not done["tokens"]:
            raise ValueError(f"source {name} ({manifest['sources'][name]}) has no document")
        done |= {"ended": True, "position": None}
        commit()
    wanted = {"train", "validation"} if manifest["made_from"]["settings"]["validation_split"] else {"train"}
    if lacking := wanted - {shard["split"] for shard in manifest["shards"]}:
        documents = sum(shard["documents"] for shard in manifest["shards"])
        raise ValueError(
            f"validation_split leaves no {lacking.pop()} document among {documents}: change it, make more documents "
            "(document: paragraph or line), or give the validation text separately"
        )
    disk.move(folder / UNFINISHED, folder / MANIFEST)


def _save(folder: Path, manifest: dict[str, Any]) -> None:
    disk.write(folder / UNFINISHED, json.dumps(manifest, indent=1))


class Shard:
    """Two files being written; the manifest lists them when they are closed."""

    def __init__(self, folder: Path, source: str, split: str, part: int):
        self.entry: dict[str, Any] = {"name": f"{source}-{part:05d}.{split}", "source": source, "split": split}
        self.paths = {ending: folder / f"{self.entry['name']}.{ending}" for ending in ("tokens", "offsets")}
        self.file, self.digest = self.paths["tokens"].open("wb"), hashlib.sha256()
        self.lengths: list[np.ndarray] = [np.zeros(1, "<i8")]
        self.tokens = self.size = 0

    def add(self, documents: Documents) -> None:
        self.file.write(documents.tokens.data)
        self.digest.update(documents.tokens.data)
        self.lengths.append(documents.lengths)
        self.tokens += len(documents.tokens)
        self.size += documents.size

    def close(self) -> dict[str, Any]:
        """Flushes the files to the disk; returns the shard's entry in the manifest."""
        self.file.close()
        offsets = np.cumsum(np.concatenate(self.lengths), dtype="<i8").tobytes()
        self.paths["offsets"].write_bytes(offsets)
        for path in self.paths.values():
            disk.sync(path)
        digests = {"tokens": self.digest.hexdigest(), "offsets": hashlib.sha256(offsets).hexdigest()}
        documents = len(offsets) // 8 - 1
        return self.entry | {"documents": documents, "tokens": self.tokens, "bytes": self.size, "sha256": digests}
