"""A process under FSDP2 or ZeRO-3 that makes models of images and speech, and adapters, as the recipes do.

Accelerate shards with FSDP2 on accelerators only, so it is told that this CPU is one, as in exact_worker.py."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from accelerate.utils import DistributedType, gather_object
from torch import nn

from hftrain import distributed
from hftrain.config import TrainConfig
from hftrain.models.images import fix_batch_norm, refusal
from hftrain.models.load import load_model
from hftrain.tasks.chat import ChatRecipeConfig
from hftrain.tasks.image_classification.config import ImageClassificationConfig
from hftrain.tasks.image_classification.model import load_classifier
from hftrain.tasks.image_pretraining.config import ImagePretrainingConfig
from hftrain.tasks.image_pretraining.model import load_reconstructor
from hftrain.tasks.speech_recognition.model import hear_less
from hftrain.train.loop import prepare, start
from hftrain.vision import Pixels
from tests import tiny
from tests.tasks.detection import models as detectors
from tests.tasks.speech_recognition.models import shape_of

VIT = {**tiny.SIZE, "image_size": 16, "patch_size": 8, "num_labels": 2}


def save(folder: Path) -> None:
    tiny.model("ViTForImageClassification", **VIT).save_pretrained(folder / "vit")
    transformers.WhisperForConditionalGeneration(shape_of("whisper")).save_pretrained(folder / "whisper")
    detectors.saved("rt_detr", folder / "rt_detr")
    tiny.adapter_folder(tiny.chat_folder(folder / "llama"), folder / "adapter")


def ways(folder: Path) -> dict[str, Callable[[], Any]]:
    """How to make each model: with larger positions, fewer positions, other statistics, an adapter, own weights."""

    def settings(name: str) -> ChatRecipeConfig:
        return ChatRecipeConfig(train_file="-", model_name_or_path=str(folder / name), use_peft=name == "adapter")

    def larger() -> Any:
        config = ImageClassificationConfig(model_name_or_path=str(folder / "vit"), image_size=24)
        return load_classifier(config, Pixels({}, 24), ["a", "b"])

    def shorter() -> Any:
        model = load_model(settings("whisper"), transformers.AutoModelForSpeechSeq2Seq)
        hear_less(model, 4)
        return model

    def fixed() -> Any:
        model = load_model(settings("rt_detr"), transformers.AutoModelForObjectDetection)
        fix_batch_norm(model)
        assert refusal(model, 64, 64) is None
        assert refusal(model, 3, 3)
        return model

    def new() -> Any:
        torch.manual_seed(5)
        return load_reconstructor(ImagePretrainingConfig(model="vit_mae", image_size=16), Pixels({}, 16))

    def adapted() -> Any:
        return load_model(settings("adapter"), transformers.AutoModelForCausalLM)

    return {"larger": larger, "shorter": shorter, "fixed": fixed, "new": new, "adapted": adapted}


def alone(make: Callable[[], Any]) -> nn.Module:
    """What one process makes."""
    asked = os.environ.pop("ACCELERATE_USE_FSDP", None)
    with distributed.unsharded_models():
        model: nn.Module = make()
    if asked:
        os.environ["ACCELERATE_USE_FSDP"] = asked
    return model


def look(accelerator: Any, make: Callable[[], Any]) -> dict[str, Any]:
    expected, model = alone(make), make()
    numbers = sum(p.nbytes for p in model.parameters() if not p.is_meta)
    prepared, _ = prepare(accelerator, model, TrainConfig(output_dir="-", learning_rate=1e-3))
    weights, wanted = accelerator.get_state_dict(prepared), expected.state_dict()
    buffers = dict(accelerator.unwrap_model(prepared).named_buffers())
    same = not accelerator.is_main_process or all(torch.equal(weights[name], wanted[name]) for name in wanted)
    buffered = all(torch.equal(buffer, buffers[name]) for name, buffer in expected.named_buffers())
    accelerator.free_memory()
    return {"numbers": numbers, "whole": sum(p.nbytes for p in expected.parameters()), "same": same and buffered}


def main(folder: Path, names: list[str]) -> None:
    if "zero3" not in folder.name:
        PartialState(cpu=True, backend="gloo")
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    accelerator = start(TrainConfig(output_dir=str(folder / "output")))
    if accelerator.is_main_process:
        with distributed.unsharded_models():
            save(folder)
    accelerator.wait_for_everyone()
    makers = ways(folder)
    seen = {name: gather_object([look(accelerator, makers[name])]) for name in names}
    try:
        four = ChatRecipeConfig(
            train_file="-", model_name_or_path=str(folder / "llama"), load_in_4bit=True, use_peft=True
        )
        for file in folder.glob("llama/*.safetensors"):
            file.unlink()
        load_model(four, transformers.AutoModelForCausalLM)
    except ValueError as error:
        seen["4 bits"] = str(error)
    if accelerator.is_main_process:
        (folder / "results.json").write_text(json.dumps({"kinds": seen}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads((Path(sys.argv[1]) / "jobs.json").read_text()))
