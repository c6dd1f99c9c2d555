"""A folder that `save_pretrained` wrote, a model or an adapter: its contents, and loading it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hftrain.data.files import ADAPTER, require_model
from hftrain.data.sealed import seal

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn
    from transformers import PreTrainedConfig

KIND_OF_ADAPTER = {
    "SEQ_2_SEQ_LM": "ForConditionalGeneration",
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}


def read_config(folder: Path, base: str | None = None, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The model's configuration; for an adapter the one beside it, which has the labels, or else its base model's.
    `name_or_path` is the folder of the model, for an adapter that of its base.

    Args:
        base: the base model of an adapter, if it differs from the one that the adapter names.

    Raises:
        ValueError: `folder` has no model, the model needs its author's Python code without trust, or the base model of
            an adapter cannot be found.
    """
    from transformers import AutoConfig

    import hftrain.models  # noqa: F401  registers our model types with the Auto classes
    from hftrain.models.trust import refusing_code

    if (folder / ADAPTER).is_file():
        from hftrain.models.adapters import base_config

        return base_config(folder, base, trust_remote_code=trust_remote_code)[0]
    require_model(folder)
    if base is not None:
        raise ValueError(f"{folder} contains a complete model: a base (--base {base}) is only for adapters")
    with refusing_code(folder):
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def kind(folder: Path, config: PreTrainedConfig) -> str:
    """The kind of the model by transformers' class names: "...ForSequenceClassification", ..."""
    if (folder / ADAPTER).is_file():
        from peft import PeftConfig

        task = str(PeftConfig.from_pretrained(str(folder)).task_type)
        if task == "None":  # PEFT has no name for images; the configuration is beside the adapter
            return (config.architectures or [config.model_type])[0]
        return KIND_OF_ADAPTER.get(task, task)
    return (config.architectures or [config.model_type])[0]


def is_segmenter(what: str) -> bool:
    """Whether a `kind` of models segments images."""
    return what.endswith("Segmentation")


class Saved(NamedTuple):
    """A finished model on the disk, and how to load it: on `device` (None: the accelerator if there is one)."""

    folder: Path
    config: PreTrainedConfig
    device: str | None = None
    trust_remote_code: bool = False


def load(saved: Saved, auto_class: str) -> tuple[Any, Any, str]:
    """The model, ready to predict, its tokenizer, and the device it is on.

    Args:
        auto_class: the class of transformers, for instance "AutoModelForSequenceClassification".
    """
    import transformers

    from hftrain.models.trust import refusing_code
    from hftrain.models.weights import naming_damage

    with refusing_code(saved.folder), naming_damage(saved.folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(saved.folder, trust_remote_code=saved.trust_remote_code)
    model, device = load_weights(saved, auto_class)
    return model, tokenizer, device


def load_weights(saved: Saved, auto_class: str) -> tuple[Any, str]:
    """`load` without a tokenizer."""
    import torch
    import transformers

    from hftrain.models.trust import refusing_code
    from hftrain.models.weights import naming_damage

    folder, config, device, trust_remote_code = saved
    auto = getattr(transformers, auto_class)
    device = device or str(torch.accelerator.current_accelerator() or "cpu")
    with refusing_code(folder), naming_damage(folder):
        if (folder / ADAPTER).is_file():
            from hftrain.models.adapters import load_adapted

            model = load_adapted(folder, auto, base_name=config.name_or_path, trust_remote_code=trust_remote_code)
        else:
            model = auto.from_pretrained(folder, config=config, trust_remote_code=trust_remote_code)
    return model.eval().to(device), device


def class_entries(names: Sequence[str]) -> dict[str, Any]:
    """The entries of a model's configuration that name its classes, by number; without `names` it predicts a number."""
    names = names or ["LABEL_0"]
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def remember(config: PreTrainedConfig, **settings: Any) -> None:
    """Writes settings that `hftrain predict` needs under the key "hftrain" of a model's configuration."""
    config.hftrain = (getattr(config, "hftrain", None) or {}) | settings


def recall(config: PreTrainedConfig, name: str) -> Any:
    """The value that `remember` wrote under `name`, or None. Version 0.1.0 wrote each name as a separate key, which is
    read if the key "hftrain" is missing."""
    remembered = getattr(config, "hftrain", None)
    return getattr(config, name, None) if remembered is None else remembered.get(name)


def save_remembered(accelerator: Accelerator, model: nn.Module, folder: str | Path, **settings: Any) -> None:
    """`remember` in a trained model and in the configuration saved in `folder`. Every process calls."""
    config = accelerator.unwrap_model(model).config
    remember(config, **settings)
    if accelerator.is_main_process:
        config.save_pretrained(folder)
        seal(folder, ["config.json"])


def refuse_nan(scores: Iterable[float], folder: Path) -> None:
    """Raises: ValueError, a score is NaN, so the predictions are meaningless."""
    if any(math.isnan(score) for score in scores):
        raise ValueError(
            f"the model in {folder} gives NaN scores: its training has diverged, or its weights are damaged "
            f"(hftrain verify {folder})"
        )


def warn_of_cuts(lengths: Sequence[int], room: int) -> None:
    """Prints to stderr how many texts are longer than the model reads."""
    if cut := sum(length > room for length in lengths):
        print(
            f"{cut} of {len(lengths)} texts are longer than the {room} tokens that the model reads and were truncated",
            file=sys.stderr,
        )
