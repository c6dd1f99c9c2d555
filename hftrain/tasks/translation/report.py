"""What the report of a translation model shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hftrain.report import Report
from hftrain.report.described import describe_split, evenly, share
from hftrain.tasks.translation.config import TranslateConfig
from hftrain.tasks.translation.judging import judge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hftrain.data.examples import Examples
    from hftrain.data.rows import Rows


def samples(rows: Rows, hypotheses: Sequence[str], count: int = 20) -> list[dict[str, str]]:
    """`count` rows, evenly spread: source, hypothesis, reference."""
    chosen = evenly(len(rows), count)
    return [{"source": rows[i]["source"], "hypothesis": hypotheses[i], "reference": rows[i]["target"]} for i in chosen]


def describe(rows: Rows, examples: Examples) -> dict[str, Any]:
    """The table of a split: its rows, how many were left out, leaked or truncated, its tokens."""
    tokens = examples.lengths
    details = {
        "source tokens, mean": float(tokens[:, 0].mean()),
        "target tokens, mean": float(tokens[:, 1].mean()),
        "longest source / target": " / ".join(map(str, tokens.max(axis=0))),
        "sources truncated": share(examples.counts["source truncated"], len(rows)),
        "targets truncated": share(examples.counts["target truncated"], len(rows)),
    }
    return describe_split(rows, details, inputs="sources")


def summarize(
    config: TranslateConfig,
    rows: Mapping[str, Rows],
    examples: Mapping[str, Any],
    hypotheses: Sequence[str],
    scores: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
) -> Report:
    """What the report shows: the scores of `hypotheses` on the test rows, and the data."""
    return Report(
        title=f"Translation {config.source_lang}-{config.target_lang}",
        task="translation",
        language=[config.source_lang, config.target_lang],
        metric="sacrebleu",
        scores=scores,
        usage=usage(config, rows["test"][0]["source"]),
        data={name: describe(split, examples[name]) for name, split in rows.items()},
        samples=samples(rows["test"], hypotheses),
        **judge(hypotheses, rows, examples, len(tokenizer), config.target_lang),
    )


def usage(config: TranslateConfig, text: str) -> str:
    """Python code that loads the model saved with `config` (a `TranslateConfig`, `ModelConfig`, ...) and translates
    `text`."""
    adapter, folder = config.use_peft, config.hub_model_id or config.output_dir
    own_code = any(Path(str(config.model_name_or_path) if adapter else config.output_dir).glob("*.py"))
    trust = ", trust_remote_code=True" if own_code else ""
    more = ", GenerationConfig" if adapter else ""  # else beams and language would be the base model's
    load_more = f"\nmodel.generation_config = GenerationConfig.from_pretrained({folder!r})" if adapter else ""
    return f"""from transformers import AutoModelForSeq2SeqLM, AutoTokenizer{more}

tokenizer = AutoTokenizer.from_pretrained({folder!r}{trust})
model = AutoModelForSeq2SeqLM.from_pretrained({folder!r}{trust}){load_more}
inputs = tokenizer({config.source_prefix + text!r}, return_tensors="pt", return_token_type_ids=False)
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0])"""
