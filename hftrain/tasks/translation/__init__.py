"""Translation: sequence to sequence, from one language to another, or any pair of texts."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.tasks.translation.config import TranslateConfig
    from hftrain.tasks.translation.examples import load_tokenizer, pair_collator, tokenize
    from hftrain.tasks.translation.judging import judge
    from hftrain.tasks.translation.model import load_translator, set_generation
    from hftrain.tasks.translation.report import samples, summarize, usage
    from hftrain.tasks.translation.rows import load_pairs
    from hftrain.tasks.translation.scoring import bleu_tokenizer, score, spread, translate
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "TranslateConfig",
    "bleu_tokenizer",
    "judge",
    "load_pairs",
    "load_tokenizer",
    "load_translator",
    "pair_collator",
    "samples",
    "score",
    "set_generation",
    "spread",
    "summarize",
    "tokenize",
    "translate",
    "usage",
]
