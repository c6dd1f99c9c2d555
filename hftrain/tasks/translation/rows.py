"""Pairs of texts: the built-in data set, or the user's."""

from typing import TYPE_CHECKING

from hftrain.data.splits import find_leaks, load_splits
from hftrain.data.unread import Unread
from hftrain.tasks.translation import cldr
from hftrain.tasks.translation.config import TranslateConfig

if TYPE_CHECKING:
    from hftrain.data.rows import Rows


def load_pairs(config: TranslateConfig, seed: int) -> "dict[str, Rows]":
    """Rows {"source", "target"} of each split: the built-in `cldr`, or the data that `config` names."""
    languages = (config.source_lang, config.target_lang)
    if config.dataset_name == "cldr":
        rows = cldr.load(*languages)
        return find_leaks(rows, ["source", "target"])
    columns = {"source": config.source_column, "target": config.target_column}
    unread = Unread()
    rows = load_splits(config, columns=columns, languages=languages, seed=seed, unread=unread)
    unread.warn("source_column and target_column choose the columns")
    return rows
