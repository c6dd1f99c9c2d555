"""Translations and their scores: BLEU and chrF."""

import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from hftrain.data.examples import Examples
from hftrain.data.rows import Rows
from hftrain.losses import Batch
from hftrain.metrics import texts
from hftrain.report.described import evenly
from hftrain.text import decode
from hftrain.train.evaluation import OneProcess, predict

logger = logging.getLogger(__name__)

ENOUGH_TO_COMPARE = 500  # validation rows that are translated at each evaluation


def translate(
    accelerator: Accelerator | OneProcess,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Any],
    batch_size: int,
    *,
    collate: Callable[[Sequence[Any]], Batch],
    **search: int,
) -> list[str]:
    """The model's translation of each example, in order, on every process. `search` is passed to its `generate`."""
    module = accelerator.unwrap_model(model).eval()

    def generate(batch: Batch) -> list[str]:
        ids = module.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **search)
        return decode(tokenizer, ids)

    return predict(accelerator, examples, batch_size, collate=collate, generate=generate)


def spread(examples: Examples, rows: Rows) -> tuple[Examples, list[str]]:
    """What is translated at each evaluation, and the references: all examples, or 500 that are spread evenly."""
    chosen = evenly(len(rows), ENOUGH_TO_COMPARE)
    return examples.select(chosen), rows.select(chosen)["target"]


def score(
    hypotheses: Sequence[str],
    references: Sequence[str],
    target_lang: str | None = None,
    *,
    num_beams: int = 1,
    batch_size: int = 1,
) -> dict[str, Any]:
    """BLEU and chrF by sacrebleu with their signatures, and the share of translations equal to their reference.
    BLEU splits words with `bleu_tokenizer`.

    With several beams also the settings of the search: transformers' beam search may depend on the batch.
    """
    bleu = texts.bleu(hypotheses, references, tokenize=bleu_tokenizer(target_lang, references))
    chrf = texts.chrf(hypotheses, references)
    exact = texts.exact_match(hypotheses, references)
    return {
        "sacrebleu": bleu["score"],
        "chrf": chrf["score"],
        "exact_match": exact["exact_match"],
        "sacrebleu_signature": bleu["signature"],
        "chrf_signature": chrf["signature"],
        **({"search": f"num_beams={num_beams}, eval_batch_size={batch_size}"} if num_beams > 1 else {}),
    }


# Tokenizers of sacrebleu, as its option -l chooses them; characters where it would take a sentence for one word.
BLEU_TOKENIZERS = {
    "zh": "zh zho chi cmn yue wuu nan hak gan lzh chinese",
    "ja-mecab": "ja jpn japanese",
    "ko-mecab": "ko kor korean",
    "char": "th tha thai lo lao my mya bur burmese km khm khmer bo bod tib tibetan dz dzo",
}


SCRIPTS = {
    "han": "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]",
    "kana": "[\u3040-\u30ff]",
    "hangul": "[\uac00-\ud7af]",
    "unspaced": "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff]",  # Thai, Lao, Tibetan, Myanmar, Khmer
    "any": r"[^\s\d!-/:-@\[-`{-~]",
}


def bleu_tokenizer(target_lang: str | None, references: Sequence[str]) -> str:
    """The sacrebleu tokenizer for a language (zh, zh_CN, zho_Hans, ...), or else for the script of most letters of
    the first thousand references: 13a, unless the script has no spaces between words."""
    code = re.split(r"[^a-z]+", (target_lang or "").lower().strip("_>< "))[0]
    chosen = next((name for name, codes in BLEU_TOKENIZERS.items() if code in codes.split()), None)
    if chosen is None:
        text = "".join(references[:1000])
        letters = {name: len(re.findall(signs, text)) for name, signs in SCRIPTS.items()}
        east_asian, half = letters["han"] + letters["kana"], letters["any"] / 2
        chosen = "13a"
        if east_asian > half:
            chosen = "ja-mecab" if letters["kana"] > east_asian / 20 else "zh"
        elif letters["hangul"] > half:
            chosen = "ko-mecab"
        elif letters["unspaced"] > half:
            chosen = "char"
    return _at_hand(chosen)


@cache
def _at_hand(tokenizer: str) -> str:
    """The tokenizer, or "char" if it needs MeCab and MeCab is not installed."""
    from sacrebleu.metrics import BLEU

    try:
        BLEU(tokenize=tokenizer)
    except RuntimeError:
        extra = tokenizer.removesuffix("-mecab")
        logger.warning(
            "BLEU counts characters because sacrebleu's %s needs MeCab: pip install 'sacrebleu[%s]'", tokenizer, extra
        )
        return "char"
    return tokenizer
