"""What translation adds to text: a collate for each kind of model, generation, scores, samples."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from hftrain.config import PairConfig
from hftrain.data import cldr
from hftrain.data.several import source_counts
from hftrain.data.unread import Unread
from hftrain.evaluation import predict
from hftrain.losses import Batch
from hftrain.metrics import load_metric
from hftrain.metrics.guesses import unigram_guess
from hftrain.metrics.intervals import bootstrap, wilson
from hftrain.models.positions import count_positions
from hftrain.report.scores import MORE_TRAINING
from hftrain.splits import find_leaks, load_splits
from hftrain.text import collate_pairs, decode, embedding_rows, language_id, tokenize_pairs

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def load_pairs(config: Any, seed: int) -> "dict[str, Dataset]":
    """Rows {"source", "target"} of each split: the built-in `cldr`, or what a `DataConfig` and `PairConfig` name."""
    languages = (config.source_lang, config.target_lang)
    if config.dataset_name == "cldr":
        rows = cldr.generate(*languages)
        find_leaks(rows, ["source", "target"])
        return rows
    columns = {"source": config.source_column, "target": config.target_column}
    unread = Unread()
    rows = load_splits(config, columns=columns, languages=languages, seed=seed, unread=unread)
    unread.warn("source_column and target_column say what is read")
    return rows


def pair_collator(tokenizer: PreTrainedTokenizerBase, model: Any) -> Callable[[Sequence[Any]], Batch]:
    """`collate_pairs` with the ids this model and its tokenizer mean.

    Raises:
        ValueError: the tokenizer has no pad token or is not this model's, or the model no first token for its decoder.
    """
    config = model.config
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{type(tokenizer).__name__} has no pad token: set one, or choose tokenizer_name_or_path")
    if len(tokenizer) > (rows := embedding_rows(model)):
        raise ValueError(
            f"the tokenizer has {len(tokenizer):,} tokens, but the model embeddings for {rows:,} only: it is not this "
            "model's (tokenizer_name_or_path, model_name_or_path)"
        )
    rotates = config.model_type in ("mbart", "plbart")  # the language, which ends the labels, is what is read first
    start = getattr(config, "decoder_start_token_id", None)  # PLBart's configuration has no such key
    if start is None and not rotates:
        raise ValueError(
            "the model's configuration has no decoder_start_token_id: set model_config.decoder_start_token_id"
        )
    return partial(
        collate_pairs,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=None if rotates else start,
    )


def tokenize(rows: "Dataset", tokenizer: PreTrainedTokenizerBase, config: PairConfig) -> "Dataset":
    """`text.tokenize_pairs` as `config` says."""
    return tokenize_pairs(
        rows,
        tokenizer,
        source_lang=config.source_lang,
        target_lang=config.target_lang,
        source_prefix=config.source_prefix,
        max_source_length=config.max_source_length,
        max_target_length=config.max_target_length,
    )


def set_generation(model: Any, tokenizer: PreTrainedTokenizerBase, config: PairConfig) -> None:
    """Makes beams, length and target language the model's own defaults, which are saved with it, as is the prefix of
    the sources.

    Raises:
        ValueError: max_source_length or max_target_length is more than the model has positions for.
    """
    positions, _ = count_positions(model)
    for name in ("max_source_length", "max_target_length"):
        if positions and getattr(config, name) > positions:
            raise ValueError(f"{name}={getattr(config, name)}, but the model has positions for {positions} tokens only")
    if config.source_prefix:
        model.config.translation = {"source_prefix": config.source_prefix}
    generation = model.generation_config
    generation.num_beams, generation.early_stopping = config.num_beams, config.num_beams > 1
    generation.max_length, generation.max_new_tokens = None, config.max_target_length
    language = language_id(tokenizer, config.target_lang)
    if language is not None and tokenizer(text_target="a")["input_ids"][-1] == language:
        generation.decoder_start_token_id, generation.forced_bos_token_id = language, None  # as `pair_collator` has it
    elif language is not None:
        generation.forced_bos_token_id = language


def translate(
    accelerator: Accelerator,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: "Dataset",
    lengths: np.ndarray,
    batch_size: int,
    *,
    collate: Callable[[Sequence[Any]], Batch],
    num_beams: int,
) -> list[str]:
    """The model's translation of each example, in order, on every process."""
    module = accelerator.unwrap_model(model).eval()

    def generate(batch: Batch) -> list[str]:
        ids = module.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], num_beams=num_beams)
        return decode(tokenizer, ids)

    return predict(accelerator, examples, lengths, batch_size, collate=collate, generate=generate)


def score(
    hypotheses: Sequence[str],
    references: Sequence[str],
    target_lang: str | None = None,
    *,
    num_beams: int = 1,
    batch_size: int = 1,
) -> dict[str, Any]:
    """BLEU and chrF by sacrebleu with their signatures, and the share of translations equal to their reference. BLEU
    counts the words that `bleu_tokenizer` finds.

    With several beams also how they were searched for: what transformers' beam search finds may depend on the batch.
    """
    wrapped = [[reference] for reference in references]
    words = bleu_tokenizer(target_lang, references)
    bleu = load_metric("sacrebleu").compute(predictions=hypotheses, references=wrapped, tokenize=words)
    chrf = load_metric("chrf").compute(predictions=hypotheses, references=wrapped)
    exact = load_metric("exact_match").compute(predictions=hypotheses, references=references)
    return {
        "sacrebleu": bleu["score"],
        "chrf": chrf["score"],
        "exact_match": exact["exact_match"],
        "sacrebleu_signature": bleu["signature"],
        "chrf_signature": chrf["signature"],
        **({"search": f"num_beams={num_beams}, eval_batch_size={batch_size}"} if num_beams > 1 else {}),
    }


def judge(
    hypotheses: Sequence[str],
    rows: "dict[str, Dataset]",
    examples: dict[str, Any],
    vocabulary: int,
    target_lang: str | None = None,
) -> dict[str, Any]:
    """`baseline`, `intervals` and `remarks` of the test rows, for `publish`. The guess is always the target that most
    training rows have; its loss, of the validation rows, is that of each token's frequency."""
    from sacrebleu.metrics import BLEU, CHRF

    references = rows["test"]["target"]
    intervals: dict[str, tuple[float, float]] = {}
    for name, metric in (("sacrebleu", BLEU(tokenize=bleu_tokenizer(target_lang, references))), ("chrf", CHRF())):
        # What sacrebleu counts in each sentence; a score is that of the sums.
        counts = np.array(metric._extract_corpus_statistics(hypotheses, [references]))

        def scored(
            chosen: np.ndarray, name: str = name, metric: Any = metric, counts: Any = counts
        ) -> dict[str, float]:
            return {name: metric._aggregate_and_compute([counts[chosen].sum(axis=0).tolist()]).score}

        intervals |= bootstrap(scored, len(references))
    exact = sum(one == other for one, other in zip(hypotheses, references, strict=True))
    intervals["exact_match"] = wilson(exact, len(references))
    common = Counter(rows["train"]["target"]).most_common(1)[0][0]
    guess = score([common] * len(references), references, target_lang)
    training, held = (examples[name].with_format("numpy", columns=["labels"]) for name in ("train", "validation"))
    tokens = unigram_guess(training, held, vocabulary)
    baseline = {f"test_{name}": guess[name] for name in ("sacrebleu", "chrf", "exact_match")}
    (text, times), (_, usual) = (Counter(texts).most_common(1)[0] for texts in (hypotheses, references))
    remarks = []
    if times > max(2 * usual, len(hypotheses) / 2):
        remarks = [f"{times:,} of {len(hypotheses):,} translations are the same, {text[:60]!r}; {MORE_TRAINING}"]
    return {
        "baseline": baseline | ({"eval_loss": tokens["loss"]} if tokens else {}),
        "intervals": {f"test_{name}": interval for name, interval in intervals.items()},
        "remarks": remarks,
    }


# Tokenizers of sacrebleu, as its option -l chooses; characters where it would take a sentence for one word.
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
    """The tokenizer of sacrebleu for a language (zh, zh_CN, zho_Hans, ...), or else for the script of most letters of
    the first thousand references: 13a, unless words stand there without spaces."""
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
    """The tokenizer, or "char" where MeCab, which it needs, is not installed."""
    from sacrebleu.metrics import BLEU

    try:
        BLEU(tokenize=tokenizer)
    except RuntimeError:
        extra = tokenizer.removesuffix("-mecab")
        logger.warning(
            "BLEU counts characters, for sacrebleu's %s needs MeCab: pip install 'sacrebleu[%s]'", tokenizer, extra
        )
        return "char"
    return tokenizer


def samples(rows: "Dataset", hypotheses: Sequence[str], count: int = 20) -> list[dict[str, str]]:
    """`count` rows, evenly spread: source, hypothesis, reference."""
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int).tolist()
    return [{"source": rows[i]["source"], "hypothesis": hypotheses[i], "reference": rows[i]["target"]} for i in chosen]


def describe_data(
    rows: dict[str, "Dataset"], examples: dict[str, Any], lengths: dict[str, np.ndarray]
) -> dict[str, Any]:
    """For the report: of each split the rows, what was left out, leaked and truncated, and the tokens."""

    def counted(rows: int, of: int) -> str:
        return f"{rows:,} ({100 * rows / of:.1f} %)" if rows else "0"

    described = {}
    for name, split in rows.items():
        bad = len(getattr(split, "bad", ()))
        described[name] = {
            "rows": len(split),
            **source_counts(split),
            "unusable rows left out": counted(bad, bad + len(split)),
            "rows that stand in train": "" if name == "train" else counted(split.leaks.rows, len(split)),
            "sources that stand in train": "" if name == "train" else counted(split.leaks.inputs, len(split)),
            "source tokens, mean": float(lengths[name][:, 0].mean()),
            "target tokens, mean": float(lengths[name][:, 1].mean()),
            "longest source / target": " / ".join(map(str, lengths[name].max(axis=0))),
            "sources truncated": counted(examples[name].truncated["source"], len(split)),
            "targets truncated": counted(examples[name].truncated["target"], len(split)),
            "fingerprint": split._fingerprint[:16],
        }
    return described


def usage(config: Any, text: str) -> str:
    """Python that loads what was trained and saved (a `PairConfig`, `ModelConfig`, ... says where) and translates
    `text`."""
    adapter, folder = config.use_peft, config.hub_model_id or config.output_dir
    own_code = any(Path(config.model_name_or_path if adapter else config.output_dir).glob("*.py"))
    trust = ", trust_remote_code=True" if own_code else ""
    more = ", GenerationConfig" if adapter else ""  # beams and language are its base model's unless they are loaded
    load_more = f"\nmodel.generation_config = GenerationConfig.from_pretrained({folder!r})" if adapter else ""
    return f"""from transformers import AutoModelForSeq2SeqLM, AutoTokenizer{more}

tokenizer = AutoTokenizer.from_pretrained({folder!r}{trust})
model = AutoModelForSeq2SeqLM.from_pretrained({folder!r}{trust}){load_more}
inputs = tokenizer({config.source_prefix + text!r}, return_tensors="pt", return_token_type_ids=False)
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0])"""
