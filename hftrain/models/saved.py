"""A folder that `save_pretrained` wrote, a model or an adapter: what is in it, loading it, going through texts."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hftrain.data.files import ADAPTER

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

KIND_OF_ADAPTER = {
    "SEQ_2_SEQ_LM": "ForConditionalGeneration",
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}


def read_config(folder: Path, base: str | None = None, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The model's configuration; of an adapter the one beside it, which knows its labels, or else its base model's.
    `name_or_path` is the folder of the model, of an adapter that of its base.

    Args:
        base: the base model of an adapter, where it is not what the adapter names.

    Raises:
        ValueError: there is no model in `folder`, or one that needs its author's Python code and is not trusted; an
            adapter's base model is not where it should be.
    """
    from transformers import AutoConfig

    import hftrain.models  # noqa: F401  registers our model types with the Auto classes
    from hftrain.models.trust import refusing_code

    if (folder / ADAPTER).is_file():
        from hftrain.models.adapters import base_config

        return base_config(folder, base, trust_remote_code=trust_remote_code)[0]
    if not (folder / "config.json").is_file():
        raise ValueError(f"no model in {folder} (neither config.json nor {ADAPTER}): name the output folder of a run")
    if base is not None:
        raise ValueError(f"{folder} holds a whole model: a base (--base {base}) is for adapters")
    with refusing_code(folder):
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def kind(folder: Path, config: PreTrainedConfig) -> str:
    """What the model is, as transformers' classes are named: "...ForSequenceClassification", ..."""
    if (folder / ADAPTER).is_file():
        from peft import PeftConfig

        task = str(PeftConfig.from_pretrained(str(folder)).task_type)
        return KIND_OF_ADAPTER.get(task, task)
    return (config.architectures or [config.model_type])[0]


def load(
    folder: Path, auto_class: str, config: PreTrainedConfig, device: str | None, trust_remote_code: bool = False
) -> tuple[Any, Any, str]:
    """The model, ready to predict, its tokenizer, and the device it is on (None: the accelerator if there is one).

    Args:
        auto_class: of transformers, "AutoModelForSequenceClassification" for instance.
    """
    import torch
    import transformers

    from hftrain.models.trust import refusing_code
    from hftrain.models.weights import naming_damage

    auto = getattr(transformers, auto_class)
    device = device or str(torch.accelerator.current_accelerator() or "cpu")
    with refusing_code(folder), naming_damage(folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if (folder / ADAPTER).is_file():
            from hftrain.models.adapters import load_adapted

            model = load_adapted(folder, auto, base_name=config.name_or_path, trust_remote_code=trust_remote_code)
        else:
            model = auto.from_pretrained(folder, config=config, trust_remote_code=trust_remote_code)
    return model.eval().to(device), tokenizer, device


def room(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that the model reads at most."""
    from hftrain.models.positions import count_positions

    return min(tokenizer.model_max_length, count_positions(model)[0] or sys.maxsize)


def refuse_nan(scores: Iterable[float], folder: Path) -> None:
    """Raises: ValueError, a score is no number, so that no prediction means anything."""
    if any(math.isnan(score) for score in scores):
        raise ValueError(
            f"the model in {folder} gives NaN for scores: its training has diverged, or its weights are damaged "
            f"(hftrain verify {folder})"
        )


def warn_of_cuts(lengths: Sequence[int], room: int) -> None:
    """Says on stderr how many of the texts are longer than what is read of them."""
    if cut := sum(length > room for length in lengths):
        print(f"{cut} of {len(lengths)} texts are longer than the {room} tokens the model reads: cut", file=sys.stderr)


def batches(indices: Sequence[int], lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """`indices` in batches of similar length, the longest first, with a bar on the terminal."""
    from rich.console import Console
    from rich.progress import track

    order = sorted(indices, key=lambda index: lengths[index], reverse=True)
    cut = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    yield from track(cut, "predicting", console=Console(stderr=True), transient=True, disable=len(cut) < 2)
