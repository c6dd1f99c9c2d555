"""The models' own losses as sums, normalised by the frames of the global batch.

transformers divides each part of a loss by what the micro-batch holds: the spectrogram by its frames, durations, pitch
and energy by its tokens, the guided attention by its pairs of frame and token. Here the sums of a step are divided by
those of the step.

Shapes: B examples, N tokens, F frames, M mel bands, F' = F / reduction factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.speecht5.modeling_speecht5 import SpeechT5GuidedMultiheadAttentionLoss

from hftrain.distributed import total
from hftrain.losses import IGNORE, Batch, Loss
from hftrain.tasks.speaking.codec import CodeLoss, is_coded

if TYPE_CHECKING:
    from hftrain.data.plan import MicroBatch

STOP_WEIGHT = 5.0  # of the last frame, as in transformers' SpeechT5SpectrogramLoss

# (B, N) tokens and (B, F) frames that are not padding, while a batch is run
_REAL: ContextVar[dict[str, torch.Tensor] | None] = ContextVar("real", default=None)


class Output(NamedTuple):
    """What the loss reads: the spectrogram (B, F, M) before and after the postnet, the rest as the model returns it,
    and of SpeechT5 the logits (B, F) of the end."""

    before: torch.Tensor
    after: torch.Tensor
    rest: Any
    stops: torch.Tensor | None = None


class SpectrogramLoss:
    """The loss of a model that speaks. `before_step` tells it what the global batch holds, `see` what an evaluation
    holds: frames, and the tokens of FastSpeech2 or the pairs of SpeechT5."""

    def __init__(self, model: nn.Module):
        self.config = speaking_part(model).config
        self.aligned = is_aligned(self.config)
        self.ratio = 1.0

    def see(self, frames: float, others: float) -> None:
        self.ratio = frames / max(1.0, others)

    def before_step(self, accelerator: Accelerator) -> Callable[[nn.Module, list[MicroBatch]], None]:
        """For `fit`: counts the frames and the others of the step over all processes."""

        def count(model: nn.Module, micro_batches: Sequence[MicroBatch]) -> None:
            batches = [micro.batch for micro in micro_batches if len(micro.indices)]
            self.see(*total(accelerator, sum(map(count_frames, batches)), sum(map(self.others, batches))))

        return count

    def others(self, batch: Batch) -> int:
        tokens = batch["attention_mask"].sum(dim=1)
        if self.aligned:
            return int(tokens.sum())
        frames = real_frames(batch).sum(dim=1) // self.config.reduction_factor
        return int((tokens * frames).sum())

    def loss(self) -> Loss:
        return Loss(self.summed, count_frames)

    def summed(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        output = run(model, batch)
        real, mel = real_frames(batch), batch["mel"]
        distance = (output.before - mel).abs() + (output.after - mel).abs()
        summed = distance[real].sum() / mel.shape[2]
        others = self._prosody(output, batch) if self.aligned else self._attention(output, batch)
        if output.stops is not None:
            summed = summed + stop_loss(output.stops, real)
        return summed + others * self.ratio

    def _prosody(self, output: Output, batch: Batch) -> torch.Tensor:
        real, rest = batch["attention_mask"].bool(), output.rest
        errors = (rest.duration_outputs - torch.log(batch["durations"].float() + 1)).square()
        errors = errors + (rest.pitch_outputs.squeeze(-1) - batch["pitch"]).square()
        errors = errors + (rest.energy_outputs.squeeze(-1) - batch["energy"]).square()
        return errors[real].sum()

    def _attention(self, output: Output, batch: Batch) -> torch.Tensor:
        """The guided attention of arXiv 1710.08969, over the first heads of each layer."""
        if not self.config.use_guided_attention_loss:
            return output.after.new_zeros(())
        heads = self.config.guided_attention_loss_num_heads
        attentions = torch.cat([layer[:, :heads] for layer in output.rest.cross_attentions], dim=1)  # (B, L, F', N)
        factor, guide = self.config.reduction_factor, SpeechT5GuidedMultiheadAttentionLoss(self.config)
        tokens, frames = batch["attention_mask"].bool(), real_frames(batch)[:, factor - 1 :: factor]
        weights = guide._make_guided_attention_masks(tokens, frames, attentions.device)
        pairs = (frames[:, :, None] & tokens[:, None, :])[:, None]
        return guide.scale * (weights * attentions * pairs).sum() / attentions.shape[1]


def loss_for(model: nn.Module) -> SpectrogramLoss | CodeLoss:
    """The loss of the kind of `model`."""
    model_config = speaking_part(model).config
    return CodeLoss(model_config) if is_coded(model_config) else SpectrogramLoss(model)


def is_aligned(model_config: PreTrainedConfig) -> bool:
    """Whether a model learns durations, pitch and energy of tokens."""
    return bool(model_config.model_type == "fastspeech2_conformer")


def real_frames(batch: Batch) -> torch.Tensor:
    """(B, F) bool: the frames that are not padding."""
    return batch["mel"][:, :, 0] != IGNORE


def count_frames(batch: Batch) -> int:
    return int(real_frames(batch).sum())


def stop_loss(logits: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropy of the logits (B, F) with "this frame is the last"."""
    last = real & ~F.pad(real[:, 1:], (0, 1))
    weight = torch.tensor(STOP_WEIGHT, device=logits.device)
    return F.binary_cross_entropy_with_logits(logits[real], last[real].float(), pos_weight=weight, reduction="sum")


def speaking_part(model: nn.Module) -> Any:
    """The model of transformers, without wrappers and adapters."""
    named = (part for part in model.modules() if isinstance(part, PreTrainedModel))  # DeepSpeed's engine forwards names
    return next(part for part in named if hasattr(part, "speech_decoder_postnet") or is_coded(part.config))


def run(model: nn.Module, batch: Batch) -> Output:
    """The model's output with the recording's own frames, durations, pitch and energy as inputs, also in evaluation."""
    inner = speaking_part(model)
    inputs: dict[str, Any] = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if is_aligned(inner.config):
        inputs |= {f"{name}_labels": batch[name][..., None] for name in ("pitch", "energy")}
        inputs |= {"spectrogram_labels": batch["mel"], "duration_labels": batch["durations"]}
        if inner.multispeaker_model:
            inputs["speaker_ids"] = batch["speaker_ids"]
    else:
        inputs |= {"labels": batch["mel"], "speaker_embeddings": batch["speaker_embeddings"]}
    captured: list[Any] = []
    hook = inner.speech_decoder_postnet.register_forward_hook(lambda module, given, output: captured.append(output))
    real = _REAL.set({"text": batch["attention_mask"].bool(), "speech": real_frames(batch)})
    try:
        with taught(inner):
            rest = model(**inputs)
    finally:
        _REAL.reset(real)
        hook.remove()
    before, after, *stops = captured[0]
    return Output(before, after, rest, *stops)


@contextmanager
def taught(inner: Any) -> Iterator[None]:
    """FastSpeech2 uses the durations that it is given only in training: in evaluation it believes to be in training,
    while its dropout stays off."""
    parts = [inner, inner.duration_predictor] if is_aligned(inner.config) and not inner.training else []
    for part in parts:
        part.training = True
    try:
        yield
    finally:
        for part in parts:
            part.training = False


def mask_padding(model: nn.Module) -> None:
    """Puts zeros on the padding before each convolution of a batch that `run` runs, as at the ends of an example that
    is alone. Without this, what transformers computes depends on the padding."""
    inner = speaking_part(model)
    for name, part in inner.named_modules():
        if isinstance(part, nn.Conv1d):
            part.register_forward_pre_hook(_zeros("speech" if "decoder" in name else "text"))


def _zeros(where: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
    def put(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        real = _REAL.get()
        if real is None:
            return None
        return (inputs[0] * real[where][:, None, :].to(inputs[0].dtype), *inputs[1:])

    return put
