"""Tokenizers: learning one from the training text, facts of it that a model needs, decoding."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hftrain.data.files import cache, make_once
from hftrain.data.rows import Rows, fingerprint
from hftrain.text.examples import BATCH_ROWS

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
# A token stays within one of these: a word, a digit or a run of signs, each with the space before it, or other spaces.
WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2, added_tokens: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Byte-pair encoding (Sennrich et al., 2016, https://aclanthology.org/P16-1162) of bytes, learned from `texts`.

    No text is unknown or lost: `decode(encode(text))` is always the text in Unicode form NFC; special tokens written in
    it stay text. A word at the start of a text gets the same tokens as inside a text, and each digit is a token. An
    encoded text ends with `</s>`. The same texts give the same tokenizer.

    Args:
        vocab_size: maximum number of tokens, including 256 bytes, 4 special and the added ones; fewer if the texts
            contain no more pairs that occur `min_frequency` times.
        added_tokens: words that are always one token, such as language codes.

    Returns:
        A tokenizer for `save_pretrained` and `AutoTokenizer`. `<pad>` has id 0, `<s>` 1, `</s>` 2, `<unk>` 3.

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


def texts_of(rows: Rows | Dataset) -> Iterator[str]:
    """Every text of the rows, column after column."""
    data = Rows.of(rows).data
    for column in data.column_names:
        for batch in data.select_columns(column).iter(BATCH_ROWS):
            yield from batch[column]


def learn_tokenizer(rows: Rows | Dataset, vocab_size: int) -> PreTrainedTokenizerBase:
    """`train_tokenizer` on every text of `rows`; cached for the other processes and the next run."""
    import tokenizers

    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(json.dumps([fingerprint(rows), vocab_size, tokenizers.__version__]).encode())
    folder = cache() / f"tokenizer-{digest.hexdigest()}"
    make_once(folder, lambda stage: train_tokenizer(texts_of(rows), vocab_size).save_pretrained(stage))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.name_or_path = ""  # do not name the cache as the origin
    logger.warning("tokenizer: %s byte-pair tokens, learnt from the training texts", f"{len(tokenizer):,}")
    return tokenizer


def require_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises: ValueError, the tokenizer has no pad token."""
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path or 'the model'} has no pad token: set pad_token in its "
            "tokenizer_config.json, to the end token for instance, or choose another with tokenizer_name_or_path"
        )


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The facts of a tokenizer that a new model's configuration needs: `vocab_size` and the special tokens' ids."""
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in names}}


def language_id(tokenizer: PreTrainedTokenizerBase, target_lang: str | None) -> int | None:
    """The token a translation into `target_lang` starts with (`forced_bos_token_id` of generation): for multilingual
    tokenizers (mBART, NLLB, M2M100); None for the others.

    Raises:
        ValueError: a multilingual tokenizer lacks `target_lang`.
    """
    ids = language_ids(tokenizer)
    if ids and target_lang not in ids:
        near = [code for code in ids if target_lang and code[:2] == target_lang[:2]]
        hint = f"; perhaps {' or '.join(near)}" if near else f"; it has {', '.join(ids)}"
        raise ValueError(f"this tokenizer has no language {target_lang!r}{hint} (source_lang, target_lang)")
    return ids[target_lang] if ids else None


def language_ids(tokenizer: PreTrainedTokenizerBase) -> Mapping[Any, int]:
    if not hasattr(tokenizer, "src_lang"):
        return {}
    if hasattr(tokenizer, "lang_code_to_id"):  # mBART, M2M100; PLBart's java is __java__
        return tokenizer.lang_code_to_id | {code.strip("_"): id for code, id in tokenizer.lang_code_to_id.items()}
    vocabulary = tokenizer.get_vocab()
    return {code: vocabulary[code] for code in tokenizer.extra_special_tokens}  # NLLB


def decode(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor | Sequence[Sequence[int]]) -> list[str]:
    """Texts of (B, T) token ids, without special tokens and the -100 of padded labels."""
    rows = ids.tolist() if isinstance(ids, torch.Tensor) else ids
    texts = tokenizer.batch_decode([[token for token in row if token >= 0] for row in rows], skip_special_tokens=True)
    return [text.strip() for text in texts]
