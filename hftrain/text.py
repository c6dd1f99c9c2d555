"""Text to tokens and back: a tokenizer from the training text, pairs of texts as examples, examples as a batch.

Shapes: B examples of a batch, S source tokens, T target tokens, N examples of a data set.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hftrain.data.rows import fingerprint

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
# What a token may not reach across: a word, a digit or a run of signs, each with the space before it, or other spaces.
WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"

WHERE_FROM = {"is_local", "local_files_only", "name_or_path"}  # settings of a saved tokenizer that change no token

BATCH_ROWS = 1_000


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2, added_tokens: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Byte-pair encoding (Sennrich et al., 2016, https://aclanthology.org/P16-1162) of bytes, learned from `texts`.

    Nothing is unknown and nothing is lost: `decode(encode(text))` is the text in Unicode form NFC, whatever it holds;
    what looks like a special token in it is text. A word at the start of a text gets the tokens it has inside one, and
    each digit is a token. An encoded text ends in `</s>`. The same texts give the same tokenizer.

    Args:
        vocab_size: at most this many tokens, counting 256 bytes, 4 special and the added ones; fewer when the texts
            hold no more pairs that occur `min_frequency` times.
        added_tokens: words that stay one token wherever they stand, such as language codes.

    Returns:
        A tokenizer that `save_pretrained` and `AutoTokenizer` know. `<pad>` has id 0, `<s>` 1, `</s>` 2, `<unk>` 3.

    Raises:
        ValueError: `vocab_size` is too small for the bytes.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer

    smallest = 256 + len(SPECIAL_TOKENS) + len(added_tokens)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size must be {smallest} or more (256 bytes, special and added tokens), got {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Prepend(" ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(added_tokens),
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    eos = SPECIAL_TOKENS["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}", pair=f"$A {eos} $B {eos}", special_tokens=[(eos, tokenizer.token_to_id(eos))]
    )
    trained = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, split_special_tokens=True, clean_up_tokenization_spaces=False, **SPECIAL_TOKENS
    )
    trained.add_tokens([AddedToken(token, normalized=False) for token in added_tokens])
    return trained


def texts_of(rows: Dataset) -> Iterator[str]:
    """Every text of the rows, column after column."""
    for column in rows.column_names:
        for batch in rows.select_columns(column).iter(BATCH_ROWS):
            yield from batch[column]


def learn_tokenizer(rows: Dataset, vocab_size: int) -> PreTrainedTokenizerBase:
    """`train_tokenizer` on every text of `rows`, once: kept in the cache for the other processes and the next run."""
    import tokenizers

    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(json.dumps([fingerprint(rows), vocab_size, tokenizers.__version__]).encode())
    folder = _cache() / f"tokenizer-{digest.hexdigest()}"
    if not folder.exists():
        with _whole(folder) as stage:
            train_tokenizer(texts_of(rows), vocab_size).save_pretrained(stage)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.name_or_path = ""  # the cache is no place to come from
    return tokenizer


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a new model's configuration has to know of its tokenizer: `vocab_size` and the special tokens' ids."""
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in names}}


def language_id(tokenizer: PreTrainedTokenizerBase, target_lang: str | None) -> int | None:
    """The token a translation into `target_lang` starts with (`forced_bos_token_id` of generation): for multilingual
    tokenizers (mBART, NLLB, M2M100); None for the others.

    Raises:
        ValueError: a multilingual tokenizer does not know `target_lang`.
    """
    ids = _language_ids(tokenizer)
    if ids and target_lang not in ids:
        near = [code for code in ids if target_lang and code[:2] == target_lang[:2]]
        hint = f"; perhaps {' or '.join(near)}" if near else f"; it knows {', '.join(ids)}"
        raise ValueError(f"this tokenizer has no language {target_lang!r}{hint} (source_lang, target_lang)")
    return ids[target_lang] if ids else None


def _language_ids(tokenizer: PreTrainedTokenizerBase) -> Mapping[Any, int]:
    if not hasattr(tokenizer, "src_lang"):
        return {}
    if hasattr(tokenizer, "lang_code_to_id"):  # mBART, M2M100
        return tokenizer.lang_code_to_id
    vocabulary = tokenizer.get_vocab()
    return {code: vocabulary[code] for code in tokenizer.extra_special_tokens}  # NLLB


def tokenize_pairs(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_source_length: int,
    max_target_length: int,
    source_lang: str | None = None,
    target_lang: str | None = None,
    source_prefix: str = "",
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Rows {"source", "target"} as examples {"input_ids": (S,), "labels": (T,)}: token ids with special tokens.

    The i-th example is the i-th row. The result is kept on disk, memory-mapped, under a key made of the rows, the whole
    tokenizer, this module and the arguments; who comes second with the same finds it there. On several processes:
    `with accelerator.local_main_process_first(): examples = tokenize_pairs(...)`.

    Args:
        max_source_length, max_target_length: in tokens, special tokens included. Longer texts are cut, keep their
            special tokens, and are counted: in the log, and in the attribute `truncated` ({"source": n, "target": n}).
        source_lang, target_lang: codes of a multilingual tokenizer, which is set to them; the others ignore them.
        source_prefix: put before each source ("translate English to German: ").
        cache_dir: the default is a folder in the cache of `datasets` (HF_DATASETS_CACHE, HF_HOME).

    Raises:
        ValueError: an unknown language, a length under 2, or a tokenizer that does not mark the end of a text.
    """
    import datasets

    if min(max_source_length, max_target_length) < 2:
        raise ValueError(f"max lengths must be 2 or more, got {max_source_length} and {max_target_length}")
    if _language_ids(tokenizer):
        for language in (source_lang, target_lang):
            language_id(tokenizer, language)
        tokenizer.src_lang, tokenizer.tgt_lang = source_lang, target_lang
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    if not ends & set(tokenizer(text_target="a")["input_ids"]):
        raise ValueError(
            f"{type(tokenizer).__name__} adds no end token to a text, so the model could not learn to stop"
        )

    limits = {"source": max_source_length, "target": max_target_length}
    arguments = [limits, source_lang, target_lang, source_prefix]
    folder = Path(cache_dir or _cache()) / _key(rows, tokenizer, arguments)
    if folder.exists() and (damage := _damage(folder)):
        logger.warning("the tokenized data in %s are damaged (%s) and are made again", folder, damage)
        shutil.rmtree(folder)
    if not folder.exists():
        _write(folder, rows, tokenizer, limits, source_prefix)
    examples = datasets.Dataset.from_file(str(folder / "examples.arrow"))
    examples._fingerprint = folder.name  # by content, where `datasets` would look at the file's date
    examples.truncated = json.loads((folder / "manifest.json").read_text())["truncated"]
    for side, count in examples.truncated.items():
        if count:
            share = 100 * count / len(examples)
            logger.warning(
                "%d of %d rows (%.1f %%) have a longer %s than max_%s_length = %d and are truncated",
                *(count, len(examples), share, side, side, limits[side]),
            )
    return examples


def _cache() -> Path:
    """Where what can be made again is kept; HF_HOME and HF_DATASETS_CACHE move it."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "hftrain"


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into, which becomes `folder` at the end: it is whole or not there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
    try:
        yield stage
        os.rename(stage, folder)
    except OSError:
        if not folder.exists():  # else another process was faster with the same
            raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _key(rows: Dataset, tokenizer: PreTrainedTokenizerBase, arguments: list[Any]) -> str:
    import tokenizers
    import transformers

    tokenizer("a")  # a plain call makes it forget the truncation and padding of the last, which it would save
    digest = hashlib.sha256(Path(__file__).read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            content = path.read_bytes()
            if path.name == "tokenizer_config.json":
                settings = json.loads(content).items()
                content = json.dumps([item for item in settings if item[0] not in WHERE_FROM]).encode()
            digest.update(path.name.encode() + content)
    versions = [transformers.__version__, tokenizers.__version__]
    digest.update(json.dumps([fingerprint(rows), versions, type(tokenizer).__name__, arguments]).encode())
    return digest.hexdigest()


def _damage(folder: Path) -> str | None:
    """Why what is written there is not what was written, or None."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return None if _sha256(folder / "examples.arrow") == manifest["sha256"] else "wrong checksum"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write(
    folder: Path, rows: Dataset, tokenizer: PreTrainedTokenizerBase, limits: dict[str, int], source_prefix: str
) -> None:
    tokens = pa.list_(pa.int32())
    schema = pa.schema([("input_ids", tokens), ("labels", tokens)])
    truncated = {"source": 0, "target": 0}
    with _whole(folder) as stage:
        with pa.OSFile(str(stage / "examples.arrow"), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            for batch in rows.iter(BATCH_ROWS):
                sources = [source_prefix + text for text in batch["source"]]
                columns = []
                for side, argument, texts in (("source", "text", sources), ("target", "text_target", batch["target"])):
                    ids, long = _encode(tokenizer, argument, texts, limits[side])
                    columns.append(pa.array(ids, tokens))
                    truncated[side] += long
                stream.write_batch(pa.record_batch(columns, schema=schema))
        tokenizer("a")  # see _key
        manifest = {"sha256": _sha256(stage / "examples.arrow"), "truncated": truncated}
        (stage / "manifest.json").write_text(json.dumps(manifest))


def _encode(
    tokenizer: PreTrainedTokenizerBase, argument: str, texts: list[str], max_length: int
) -> tuple[list[list[int]], int]:
    """Token ids of each text, and how many were cut: those alone are encoded again, by the tokenizer's own rules."""
    ids = tokenizer(**{argument: texts}, return_attention_mask=False, verbose=False)["input_ids"]
    long = [index for index, tokens in enumerate(ids) if len(tokens) > max_length]
    if long:
        again = tokenizer(**{argument: [texts[index] for index in long]}, truncation=True, max_length=max_length)
        for index, tokens in zip(long, again["input_ids"], strict=True):
            ids[index] = tokens
    return ids, len(long)


def lengths(examples: Dataset) -> np.ndarray:
    """(N, 2) int64: source and target tokens of each example, from the offsets of the lists alone."""
    columns = ["input_ids", "labels"]
    tables: Iterator[pa.Table] = examples.select_columns(columns).with_format("arrow").iter(100_000)
    counted = [np.stack([pc.list_value_length(table.column(name)) for name in columns], axis=1) for table in tables]
    return np.concatenate(counted).astype(np.int64)


def collate_pairs(
    examples: Sequence[Mapping[str, Sequence[int]]],
    *,
    pad_token_id: int,
    decoder_start_token_id: int | None,
    pad_to_multiple_of: int = 1,
) -> dict[str, torch.Tensor]:
    """Pad examples to a batch; the decoder reads the labels shifted right by one.

    Padding is on the right, where causal self-attention needs no mask for it, and told by position, never by id: the
    pad token may be the end token.

    Args:
        decoder_start_token_id: what the decoder reads first; None: the last label (mBART: a text ends in its language).
        pad_to_multiple_of: S and T are rounded up to a multiple of this.

    Returns:
        int64: input_ids, attention_mask (B, S); decoder_input_ids, labels (B, T), the latter padded with -100.
    """
    sources = [torch.as_tensor(example["input_ids"]) for example in examples]
    labels = [torch.as_tensor(example["labels"]) for example in examples]
    first = None if decoder_start_token_id is None else torch.tensor([decoder_start_token_id])
    shifted = [torch.cat([tokens[-1:] if first is None else first, tokens[:-1]]) for tokens in labels]
    return {
        "input_ids": _pad(sources, pad_token_id, pad_to_multiple_of),
        "attention_mask": _pad([torch.ones_like(tokens) for tokens in sources], 0, pad_to_multiple_of),
        "decoder_input_ids": _pad(shifted, pad_token_id, pad_to_multiple_of),
        "labels": _pad(labels, -100, pad_to_multiple_of),
    }


def _pad(sequences: list[torch.Tensor], value: int, multiple: int) -> torch.Tensor:
    width = -(-max(map(len, sequences)) // multiple) * multiple
    padded = torch.full((len(sequences), width), value, dtype=torch.int64)
    for row, tokens in zip(padded, sequences, strict=True):
        row[: len(tokens)] = tokens
    return padded


def decode(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor | Sequence[Sequence[int]]) -> list[str]:
    """Texts of (B, T) token ids, without special tokens and the -100 of padded labels."""
    rows = ids.tolist() if isinstance(ids, torch.Tensor) else ids
    texts = tokenizer.batch_decode([[token for token in row if token >= 0] for row in rows], skip_special_tokens=True)
    return [text.strip() for text in texts]
