"""The export of a trained model: what plain `from_pretrained` loads."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from torch import nn

from hftrain import distributed
from hftrain.data.files import share_weights
from hftrain.models.saved import recall
from hftrain.train.checkpoint import check_export
from hftrain.train.state import Processor


def export(accelerator: Accelerator, model: nn.Module, processor: Processor | None, folder: Path) -> None:
    """Writes files for plain `from_pretrained`, reads them back and compares; every process calls, the main one writes.
    Raises: ValueError, the written model differs from the trained one."""
    weights = distributed.weights(accelerator, model)
    state_dict = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        module = accelerator.unwrap_model(model)
        module.save_pretrained(folder, state_dict=state_dict)
        if hasattr(module, "peft_config") and getattr(module, "generation_config", None) is not None:
            module.generation_config.save_pretrained(folder)  # saving an adapter omits it
        heads = any(adapter.modules_to_save for adapter in getattr(module, "peft_config", {}).values())
        if heads or recall(module.config, "translation"):
            module.config.save_pretrained(folder)  # it has the meaning of the head, or the prefix of each source
        if processor is not None:
            processor.save_pretrained(folder)
        share_weights(folder)
        check_export(folder, weights, adapters=getattr(module, "peft_config", {}))
