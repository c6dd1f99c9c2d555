"""What the pretraining recipes share: tokenizer, token files, examples and metrics."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hftrain import text
from hftrain.config.defaults import LARGEST_STEP
from hftrain.config.sources import Source, read_source
from hftrain.data.documents import open_source
from hftrain.data.files import cache, make_once
from hftrain.data.sources import is_hub_name
from hftrain.data.splits import dialect_of
from hftrain.data.tokens import TokenFiles, blocks, is_token_folder
from hftrain.models import load
from hftrain.models.trust import refusing_code
from hftrain.tasks.pretraining.config import PretrainingConfig
from hftrain.tasks.pretraining.prepare import fingerprint, prepare

logger = logging.getLogger(__name__)

LEARN_FROM = 200_000_000  # maximum characters that a tokenizer is learnt from


# ---- the tokens ----


def load_tokens(
    config: PretrainingConfig, special_tokens: dict[str, Any] | None = None
) -> tuple[PreTrainedTokenizerBase, dict[str, TokenFiles]]:
    """The tokenizer and the documents of the splits "train" and "validation"; text is tokenized if necessary.

    Args:
        special_tokens: arguments of `add_special_tokens` for a tokenizer that is learnt.

    Raises:
        ValueError: the data cannot be read, or were tokenized by another tokenizer than the model's.
    """
    train = name_sources(config.train_file or [str(config.dataset_name)])
    if config.dataset_config_name:
        train = {
            name: source._replace(name=f"{source.name}:{config.dataset_config_name}:train")
            for name, source in train.items()
        }
    first = next(iter(train.values())).name
    prepared = is_token_folder(first)
    tokenizer: Any = load.load_tokenizer(config)

    def tokenizer_of(folder: str) -> Any:
        with refusing_code(folder):
            return AutoTokenizer.from_pretrained(Path(folder) / "tokenizer", trust_remote_code=config.trust_remote_code)

    if tokenizer is None and prepared:
        tokenizer = tokenizer_of(first)
        tokenizer.name_or_path = ""
        if config.vocab_size != type(config).vocab_size:
            logger.warning("vocab_size is not used: %s has a tokenizer with %d tokens", first, len(tokenizer))
    tokenizer = tokenizer or learn_tokenizer(config, train, special_tokens or {})

    def open_tokens(sources: dict[str, Source], validation_split: float, max_tokens: int | None = None) -> Path:
        folders = [source for source in sources.values() if is_token_folder(source.name)]
        if not folders:
            return prepare(
                {name: source.name for name, source in sources.items()},
                tokenizer,
                text_column=config.text_column,
                document=config.document,
                validation_split=validation_split,
                seed=config.seed,
                max_bad_rows=config.max_bad_rows,
                max_tokens=max_tokens,
                dialect=dialect_of(config),
                limits={name: source.limit for name, source in sources.items() if source.limit},
            )
        (folder,) = folders
        if tokenizer_of(folder.name).get_vocab() != tokenizer.get_vocab():
            raise ValueError(
                f"{folder.name} was tokenized by another tokenizer than this model's: run hftrain prepare anew"
            )
        return Path(folder.name)

    set_aside = 0.0 if config.validation_file else config.validation_split
    folder = open_tokens(train, set_aside, max_tokens(config, train, set_aside))
    files = {"train": TokenFiles(folder)}
    if config.validation_file:
        files["validation"] = TokenFiles(open_tokens(name_sources(config.validation_file), 0.0))
    else:
        files["validation"] = TokenFiles(folder, "validation")
    if len(train) > 1:
        for name, source in train.items():
            first_document, end = files["train"].sources[name]
            logger.warning("%s: %s documents to train on, as source %s", source.written, end - first_document, name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is recognized by its place, never by its id
    return tokenizer, files


def name_sources(written: Sequence[str]) -> dict[str, Source]:
    """The data sets of a setting by the names of their token files: "text" for a single one, else from the files'
    names.

    Raises:
        ValueError: a folder of tokens is one of several sources, or has a weight or a limit.
    """
    sources = [read_source(text) for text in written]
    for source in sources:
        if is_token_folder(source.name) and (len(sources) > 1 or (source.weight, source.limit) != (1, None)):
            raise ValueError(
                f"{source.written}: a folder of hftrain prepare cannot be combined: prepare all into one folder "
                "(--source a=a.jsonl --source b=b.txt), and weigh them with source_weights"
            )
    if len(sources) == 1:
        return {"text": sources[0]}
    named: dict[str, Source] = {}
    for source in sources:
        stem = re.sub(r"[^\w-]+", "-", Path(source.name).name.split(".")[0]).strip("-") or "text"
        name = next(name for n in count(1) if (name := stem if n == 1 else f"{stem}-{n}") not in named)
        named[name] = source
    return named


def max_tokens(config: PretrainingConfig, sources: Mapping[str, Source], set_aside: float) -> int | None:
    """The tokens of each source to read at most, None for all: a data set on the Hub may be endless."""
    on_hub = any(is_hub_name(source.name.split(":")[0]) for source in sources.values())
    if config.max_train_tokens or not config.max_steps or not on_hub:
        return config.max_train_tokens
    step = config.global_batch_tokens or (config.global_batch_size or 0) * config.max_length or LARGEST_STEP
    return math.ceil(config.max_steps * step / (1 - set_aside))


def learn_tokenizer(
    config: PretrainingConfig, sources: Mapping[str, Source], special_tokens: dict[str, Any]
) -> PreTrainedTokenizerBase:
    """`text.train_tokenizer` on the first texts of each source, cached for the other processes and runs."""
    opened = [
        open_source(source.name, config.text_column, config.document, dialect_of(config), source.limit, config.seed)
        for source in sources.values()
    ]
    marks = [[word] if isinstance(word, str) else word for word in special_tokens.values()]
    added_tokens = list(chain.from_iterable(marks))
    prints = [fingerprint(source) for source in opened]
    made_from: list[Any] = [prints[0] if len(prints) == 1 else prints, config.text_column, config.document]
    made_from += [config.vocab_size, special_tokens, added_tokens]
    folder = cache() / f"tokenizer-{hashlib.sha256(json.dumps(made_from).encode()).hexdigest()}"

    def learn(stage: Path) -> None:
        texts = chain.from_iterable(_texts(source, LEARN_FROM // len(opened)) for source in opened)
        tokenizer = text.train_tokenizer(texts, config.vocab_size, added_tokens=added_tokens)
        if special_tokens:
            tokenizer.add_special_tokens(special_tokens)
            tokenizer.split_special_tokens = False  # so that users can write <mask>; `prepare` reads it as text
        tokenizer.save_pretrained(stage)

    make_once(folder, learn)
    learnt = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    learnt.name_or_path = ""  # do not name the cache as the origin
    logger.warning("tokenizer: %s byte-pair tokens, learnt from %s", f"{len(learnt):,}", config.trained_on)
    return learnt


def _texts(source: Iterable[Any], most: int) -> Iterator[str]:
    """The first `most` characters; `prepare` reports the rows that cannot be used."""
    characters = 0
    for item in source:
        if isinstance(item, str):
            yield item
            characters += len(item)
        if characters >= most:
            return


# ---- examples and metrics ----


def make_blocks(config: PretrainingConfig, files: dict[str, TokenFiles], packing: Any) -> dict[str, Any]:
    """`blocks` of each split; weights are for training."""
    sources = name_sources(config.train_file) if config.train_file else {}
    repeats = {name: source.weight for name, source in sources.items()}
    if set(repeats.values()) <= {1.0}:  # also for a prepared folder, whose sources have other names
        repeats = {}
    weights = {"train": repeats or config.source_weights}
    return {
        name: blocks(
            split,
            config.max_length,
            packing=packing,
            seed=config.seed,
            weights=weights.get(name),
            repeats=bool(repeats),
        )
        for name, split in files.items()
    }
