"""Trains a small model for two steps, in this process or in each process of a launch, and measures what the allocator
hands out: argument 1 is the file for the largest sums of live bytes, argument 2 the JSON of a list of `SETTINGS`."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.profiler import ProfilerActivity, profile

from hftrain.config import TrainConfig
from hftrain.distributed import backward, clip_and_step, make_accelerator, place
from hftrain.labels import classification
from hftrain.losses import Loss, causal_language_model, sequence_to_sequence
from hftrain.tasks.detection import SetLoss
from hftrain.tasks.detection import model as detectors
from hftrain.tasks.segmentation import SegmentLoss
from hftrain.tasks.segmentation import model as segmenters
from hftrain.tasks.speaking import model as voices
from hftrain.tasks.speaking.losses import loss_for
from hftrain.tasks.speech_recognition.losses import recognition
from hftrain.train.loop import prepare
from tests import tiny

SHAPE = {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4}
SHAPE |= {"vocab_size": 1000, "max_position_embeddings": 512}
LOSSES = {"LlamaForCausalLM": causal_language_model(), "BertForMaskedLM": sequence_to_sequence()}
VIT = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "image_size": 64, "patch_size": 8}
WHISPER = {"d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 512, "decoder_ffn_dim": 512}
WHISPER |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_source_positions": 100, "vocab_size": 500}
WHISPER |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
WAV2VEC2 = {"hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 512, "num_attention_heads": 4}
WAV2VEC2 |= {"conv_dim": [64] * 7, "apply_spec_augment": False, "layerdrop": 0.0, "vocab_size": 30}
OTHERS: dict[str, tuple[dict[str, Any], Any]] = {  # shapes of models of pictures and sounds, and their losses
    "ViTForImageClassification": (VIT, lambda model: classification("single_label_classification")),
    "SegformerForSemanticSegmentation": (
        segmenters.SMALL_SHAPES["segformer"] | {"num_labels": 5}, lambda model: SegmentLoss(model).loss(),
    ),
    "RTDetrV2ForObjectDetection": (
        detectors.SMALL_SHAPES["rt_detr_v2"] | {"num_labels": 5}, lambda model: SetLoss(model.config).loss(),
    ),
    "WhisperForConditionalGeneration": (WHISPER, recognition),
    "Wav2Vec2ForCTC": (WAV2VEC2, recognition),
    "FastSpeech2ConformerModel": (
        voices.FASTSPEECH | {"vocab_size": 30, "num_mel_bins": 80}, lambda model: loss_for(model).loss(),
    ),
}  # fmt: skip
SETTINGS: dict[str, Any] = {"rows": 2, "tokens": 128, "micro_batches": 2, "bf16": False, "lora": False}
SETTINGS |= {"kind": "LlamaForCausalLM", "layers": 4}


def make_model(lora: bool = False, kind: str = "LlamaForCausalLM", layers: int = 4) -> Any:
    if kind in OTHERS:
        made = getattr(transformers, kind)
        return made(made.config_class(**OTHERS[kind][0]))
    model: Any = tiny.model(kind, **SHAPE, num_hidden_layers=layers)
    if lora:
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    return model


def make_batch(rows: int, tokens: int, kind: str = "LlamaForCausalLM") -> dict[str, torch.Tensor]:
    if kind in OTHERS:
        return pictures_or_sounds(kind, rows)
    ids = torch.randint(SHAPE["vocab_size"], (rows, tokens), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}


def pictures_or_sounds(kind: str, rows: int) -> dict[str, torch.Tensor]:
    whole, pixels = partial(torch.ones, dtype=torch.long), torch.randn(rows, 3, 64, 64)
    if kind == "ViTForImageClassification":
        return {"pixel_values": pixels, "labels": whole(rows)}
    if kind == "SegformerForSemanticSegmentation":
        return {"pixel_values": pixels, "labels": whole(rows, 64, 64), "sizes": whole(rows, 2)}
    if kind == "RTDetrV2ForObjectDetection":
        objects = {"boxes": torch.full((3 * rows, 4), 0.5), "class_labels": whole(3 * rows)}
        return {"pixel_values": pixels, **objects, "objects": torch.full((rows,), 3)}
    if kind == "WhisperForConditionalGeneration":
        written = 5 * whole(rows, 30)
        return {"input_features": torch.randn(rows, 80, 200), "labels": written, "decoder_input_ids": written}
    if kind == "Wav2Vec2ForCTC":
        sound = {"input_values": torch.randn(rows, 16_000), "attention_mask": whole(rows, 16_000)}
        return {**sound, "labels": whole(rows, 12), "lengths": torch.full((rows,), 16_000)}
    tokens = {"input_ids": whole(rows, 30), "attention_mask": whole(rows, 30), "durations": 4 * whole(rows, 30)}
    prosody = {name: torch.randn(rows, 30) for name in ("pitch", "energy")}
    return {**tokens, **prosody, "mel": torch.randn(rows, 120, 80), "speaker_ids": whole(rows)}


def loss_of(kind: str, model: Any) -> Loss:
    loss: Loss = OTHERS[kind][1](model) if kind in OTHERS else LOSSES[kind]
    return loss


def measure(settings: dict[str, Any], folder: str) -> int:
    """The largest sum of live bytes in two steps, weights and all."""
    accelerator = make_accelerator(mixed_precision="bf16" if settings["bf16"] else "no")
    config = TrainConfig(output_dir=folder, bf16=settings["bf16"], learning_rate=1e-3)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        model = make_model(settings["lora"], settings["kind"], settings["layers"])
        loss = loss_of(settings["kind"], model)
        place(accelerator, model)
        model, optimizer = prepare(accelerator, model, config)
        batch = make_batch(settings["rows"], settings["tokens"], settings["kind"])
        for _ in range(2):
            for number in range(settings["micro_batches"]):
                last = number == settings["micro_batches"] - 1
                backward(accelerator, model, loss.summed(model, batch), last=last)
            clip_and_step(accelerator, model, list(model.parameters()), optimizer, 1.0)
    live = most = 0
    for event in watched.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most


if __name__ == "__main__":
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":  # as in exact_worker.py
        PartialState(cpu=True, backend="gloo")
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    measured = [measure(SETTINGS | settings, sys.argv[1] + ".run") for settings in json.loads(sys.argv[2])]
    if PartialState().is_main_process:
        Path(sys.argv[1]).write_text(json.dumps(measured))
