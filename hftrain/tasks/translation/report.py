"""What the report of a translation model shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain.data.several import source_counts

if TYPE_CHECKING:
    from datasets import Dataset


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
    """Python that loads what was trained and saved (a `TranslateConfig`, `ModelConfig`, ... says where) and translates
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
