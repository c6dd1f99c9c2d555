"""Token files that `hftrain prepare` wrote: documents of token ids, memory-mapped, and the examples cut from them.

A folder holds `tokens.json`, the manifest, and for each shard NAME: `NAME.tokens`, the concatenated token ids of its
documents (uint16, or uint32 for a vocabulary of 65,536 and more), and `NAME.offsets` (int64), the begin of each
document and the end of the last one. Positions below count the tokens of all shards of a split.

Shapes: N documents, P examples, T tokens of an example.
"""

from __future__ import annotations

import hashlib
import json
import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hftrain.data.examples import Examples
from hftrain.data.files import cache, sha256_of
from hftrain.data.packing import Packed, pack
from hftrain.data.readers import did_you_mean

logger = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = "tokens.json"
AGAIN = "Delete the folder and run hftrain prepare again"


def is_token_folder(path: str | Path) -> bool:
    """Whether `path` is a finished folder of `hftrain prepare`."""
    return (Path(path) / MANIFEST).is_file()


class TokenFiles(Sequence[dict[str, np.ndarray]]):
    """The documents of one split: {"input_ids": (n,)}, a read-only view of the file, the end token included.

    Attributes:
        lengths: (N,) tokens of each document.
        tokens: their sum.
        manifest: the content of `tokens.json`.

    Raises:
        ValueError: the folder or split does not exist, or a file was changed. To check that, every byte is read once
            after each change of the files (`require_intact`).
    """

    def __init__(self, folder: str | Path, split: str = "train"):
        self.folder, self.split = Path(folder), split
        if not is_token_folder(folder):
            raise ValueError(f"{folder} has no finished tokens ({MANIFEST}): run hftrain prepare (again)")
        self.manifest = json.loads((self.folder / MANIFEST).read_text())
        if self.manifest["format"] != FORMAT:
            raise ValueError(
                f"{folder} has format {self.manifest['format']}, this hftrain reads {FORMAT}: run hftrain prepare again"
            )
        self.shards = [shard for shard in self.manifest["shards"] if shard["split"] == split]
        if not self.shards:
            there = sorted({shard["split"] for shard in self.manifest["shards"]})
            raise ValueError(f"{folder} has no document in split {split!r}, but in {' and '.join(there)}")
        self._tokens = [self._map(shard, "tokens", self.manifest["dtype"], shard["tokens"]) for shard in self.shards]
        offsets = [self._map(shard, "offsets", "<i8", shard["documents"] + 1) for shard in self.shards]
        require_intact(self.folder, self.shards)
        self._starts = np.cumsum([0, *(shard["tokens"] for shard in self.shards)]).tolist()  # of each shard
        self.tokens = self._starts[-1]
        self.edges = np.concatenate([[0], *(o[1:] + start for o, start in zip(offsets, self._starts, strict=False))])
        content = [(shard["source"], shard["sha256"]) for shard in self.shards]
        self.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _map(self, shard: dict[str, Any], ending: str, dtype: str, size: int) -> np.ndarray:
        path = self.folder / f"{shard['name']}.{ending}"
        written = size * np.dtype(dtype).itemsize
        size_found = path.stat().st_size if path.is_file() else None
        if size_found != written:
            has = "is missing" if size_found is None else f"has {size_found}"
            raise ValueError(f"{path} is damaged: {written} bytes were written, but it {has}. {AGAIN}")
        return np.memmap(path, dtype=dtype, mode="r")

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return {"input_ids": self.read(int(self.edges[index]), int(self.edges[index + 1]))}

    def __reduce__(self) -> tuple[Any, ...]:  # a pickle of memory maps would contain every token
        return TokenFiles, (self.folder, self.split)

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.edges)

    @cached_property
    def sources(self) -> dict[str, tuple[int, int]]:
        """Name of each source -> (first, last + 1) of its documents."""
        ranges: dict[str, tuple[int, int]] = {}
        last = 0
        for shard in self.shards:
            first, last = last, last + shard["documents"]
            ranges[shard["source"]] = (ranges.get(shard["source"], (first,))[0], last)
        return ranges

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens at positions `start` .. `stop` - 1: a view if they are in one shard, else a copy."""
        parts = []
        shard = bisect_right(self._starts, start) - 1
        while start < stop:
            base, end = self._starts[shard], min(stop, self._starts[shard + 1])
            parts.append(self._tokens[shard][start - base : end - base])
            start, shard = end, shard + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def verify(folder: str | Path) -> list[str]:
    """Reads every byte of a folder of `hftrain prepare`; a line for each file that was changed."""
    return _damaged(Path(folder), json.loads((Path(folder) / MANIFEST).read_text())["shards"])


def _damaged(folder: Path, shards: Sequence[Mapping[str, Any]]) -> list[str]:
    def problem(item: tuple[Path, str]) -> str | None:
        path, written = item
        if not path.is_file() or not path.stat().st_size:
            return f"{path} is missing"
        return None if sha256_of(path) == written else f"{path} is damaged (sha256)"

    files = [(folder / f"{s['name']}.{ending}", written) for s in shards for ending, written in s["sha256"].items()]
    with ThreadPoolExecutor() as pool:  # sha256 releases Python's lock: a core checks 1 GB/s or more
        return [line for line in pool.map(problem, files) if line]


def require_intact(folder: Path, shards: Sequence[Mapping[str, Any]]) -> None:
    """Checks the checksums of `shards`, unless the cache records that these files were intact.

    The record of a file has its size, its inode and the times of its last changes; no program can set back that of the
    inode (ctime). So a file is read again after a write or a copy of the folder, but not if the disk decays:
    `hftrain verify` always reads.

    Raises:
        ValueError: names the damaged files.
    """
    names = [f"{shard['name']}.{ending}" for shard in shards for ending in shard["sha256"]]
    stats = [(folder / name).stat() for name in names]
    seen = [[s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns] for s in stats]
    state = [str(folder.resolve()), [dict(shard["sha256"]) for shard in shards], names, seen]
    record = cache() / "good-tokens" / hashlib.sha256(json.dumps(state).encode()).hexdigest()
    if record.is_file():
        return
    if (size := sum(s.st_size for s in stats)) > 10**9:
        logger.warning("checking the checksums of %.1f GB of tokens in %s, once after each change", size / 1e9, folder)
    if problems := _damaged(folder, shards):
        raise ValueError("\n".join([*problems[:9], f"The tokens differ from those that were prepared. {AGAIN}"]))
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.touch()
    except OSError as error:
        logger.info("tokens will be checked again at the next start: the cache cannot be written (%s)", error)


class Spans(Examples):
    """Stretches of token files as examples {"input_ids", "labels"}, both (T,) int64 and equal."""

    def __init__(self, files: TokenFiles, starts: np.ndarray, lengths: np.ndarray, max_length: int, pieces: int):
        parts = [files.fingerprint.encode(), starts.astype("<i8").tobytes(), lengths.astype("<i8").tobytes()]
        super().__init__(starts, lengths, fingerprint=hashlib.sha256(b"".join(parts)).hexdigest())  # type: ignore[arg-type]
        self.files, self.starts, self.ends, self.pieces = files, starts, starts + lengths, pieces
        self.padding = 1 - float(lengths.sum()) / (len(lengths) * max_length)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        return [self._span(int(self.starts[index]), int(self.ends[index])) for index in indices]

    def _span(self, start: int, end: int) -> dict[str, np.ndarray]:
        tokens = self.files.read(start, end).astype(np.int64)
        return {"input_ids": tokens, "labels": tokens}


def blocks(
    files: TokenFiles | str | Path,
    max_length: int,
    *,
    packing: Literal["best_fit", "concatenate", "none"] = "best_fit",
    seed: int = 42,
    weights: Mapping[str, float] | None = None,
    repeats: bool = False,
) -> Packed | Spans:
    """Examples of at most `max_length` tokens, which contain each token of the files (or as often as `weights` demand).

    A stretch longer than `max_length` is cut into pieces; the last token of a piece is the first of the next. So a
    model that predicts labels[1:] predicts every token exactly once, except the first of a stretch. (nanoGPT's
    block_size 256 is a `max_length` of 257.)

    Args:
        packing: best_fit: documents as `Packed`, separated by `position_ids`; none: each document is an example;
            concatenate: all documents of a source are one stretch in file order, as in GPT-2, and see one another.
        seed: seed of the draws of `weights`, and of the order of documents with the same length in packs.
        weights: source -> its share of an epoch's tokens (divided by the sum of all). An epoch has as many tokens as
            all sources together. If a source needs r times its tokens, its documents occur floor(r) times, and a part
            of them, drawn once, once more. None or {}: every document once.
        repeats: `weights` are the number of repetitions of each source (2.0: twice), not shares.

    Returns:
        Examples with the attributes `padding` (its share if all are padded to `max_length`) and `pieces` (the number
        of them, or of the documents in them, that are pieces of something longer).

    Raises:
        ValueError: `max_length` is under 2, or the weights do not fit the sources.
    """
    files = files if isinstance(files, TokenFiles) else TokenFiles(files)
    if max_length < 2:
        raise ValueError(f"max_length must be 2 or more, to predict a token from the one before it; got {max_length}")
    firsts, lasts = (np.array(column) for column in zip(*files.sources.values(), strict=True))
    edges = files.edges
    if packing == "concatenate":
        edges = np.concatenate([edges[firsts], edges[-1:]])
        firsts, lasts = np.arange(len(firsts)), np.arange(len(firsts)) + 1
    starts, lengths, of = pieces(edges, max_length)
    if weights:
        chosen = mix(
            lengths,
            dict(zip(files.sources, np.searchsorted(of, (firsts, lasts)).T, strict=True)),
            weights,
            seed,
            repeats,
        )
        starts, lengths, of = starts[chosen], lengths[chosen], of[chosen]
    cut = int((np.diff(edges)[of] > max_length).sum())
    if packing != "best_fit":
        return Spans(files, starts, lengths, max_length, cut)
    order = np.argsort(draw(len(lengths), seed, 0), kind="stable")
    return Packed(Spans(files, starts[order], lengths[order], max_length, cut), pack(lengths[order], max_length))


def pieces(edges: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts the stretches between edges as in `blocks`: start, length and stretch of each piece."""
    sizes = np.diff(edges)
    step = max_length - 1
    counts = np.maximum(1, -(-(sizes - 1) // step))
    of = np.repeat(np.arange(len(sizes)), counts)
    passed = (np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)) * step
    return edges[of] + passed, np.minimum(max_length, sizes[of] - passed), of


def draw(size: int, seed: int, stream: int) -> np.ndarray:
    """(size,) random numbers, the same on every platform and in every NumPy (NumPy's permutations may change)."""
    return np.random.Philox(key=[seed, stream]).random_raw(size)


def mix(
    lengths: np.ndarray,
    sources: Mapping[str, Sequence[int]],
    weights: Mapping[str, float],
    seed: int,
    repeats: bool = False,
) -> np.ndarray:
    """Indices into `lengths`, repeated or left out, that give each source its share of tokens; see `blocks`.

    Args:
        sources: name -> (first, last + 1) of its indices.
    """
    for name in weights:
        if name not in sources:
            raise ValueError(
                f"source_weights: no source {name!r}; there are {', '.join(sources)}" + did_you_mean(name, sources)
            )
    for name in sources:
        if weights.get(name, -1) < 0:
            raise ValueError(f"source_weights: {name!r} needs a share of 0 or more, not {weights.get(name)}")
    total = sum(weights.values())
    if not total:
        raise ValueError("source_weights: every share is 0")
    chosen = []
    for stream, (name, (first, last)) in enumerate(sources.items(), start=1):
        tokens = lengths[first:last]
        wanted = int(tokens.sum()) * weights[name] if repeats else int(lengths.sum()) * weights[name] / total
        times, remainder = divmod(round(wanted), int(tokens.sum()))
        order = np.argsort(draw(len(tokens), seed, stream), kind="stable")
        part = order[: np.searchsorted(np.cumsum(tokens[order]), remainder, side="right")]
        chosen += [np.arange(first, last)] * times + [first + np.sort(part)]
    return np.concatenate(chosen)
