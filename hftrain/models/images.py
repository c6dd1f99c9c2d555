"""What models that read images have in common: batch normalisation by saved averages, and sizes that they refuse."""

import torch
from accelerate import PartialState
from torch import nn
from transformers.models.rt_detr.modeling_rt_detr import RTDetrFrozenBatchNorm2d

from hftrain.distributed import gathered, is_away

STRIDE = 32  # sizes are multiples of it


def fix_batch_norm(model: nn.Module) -> None:
    """Batch normalisation by the saved averages, which no longer change."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.BatchNorm2d):
                fixed = RTDetrFrozenBatchNorm2d(module.num_features).to(module.weight)
                state = module.state_dict()  # with the number of batches, which the fixed one ignores
                fixed.load_state_dict(state)
                setattr(parent, name, fixed)


@torch.no_grad()
def refusal(model: nn.Module, height: int, width: int) -> str | None:
    """Why a model cannot read images of this size; None if it can. Every process must call."""
    first = next(model.parameters())
    device = PartialState().device if is_away(model) else first.device
    pixels = torch.zeros(1, 3, height, width, dtype=first.dtype, device=device)
    training = model.training
    try:
        with gathered(model):
            model.eval()(pixel_values=pixels)
    except Exception as error:  # each model says in its own way that it cannot
        side = max(STRIDE, round(height / STRIDE) * STRIDE)
        return f"{type(error).__name__}: {error}. Most models take multiples of {STRIDE}, such as {side}"
    finally:
        model.train(training)
    return None
