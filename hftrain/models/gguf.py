"""Models in the GGUF format of llama.cpp, converted to folders that transformers loads and saves."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from hftrain.data.files import cache, sha256_of, staged

logger = logging.getLogger(__name__)


def folder_of(file: Path) -> Path:
    """The folder with the model and the tokenizer of a GGUF file: dequantized to fp32 and written to the cache once,
    with the file's content as key.

    Raises:
        ValueError: the file does not exist, the package gguf is missing, or transformers lacks the architecture.
    """
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not file.is_file():
        raise ValueError(f"model_name_or_path: there is no file {file}")
    if find_spec("gguf") is None:
        raise ValueError(f"{file.name} needs the package gguf: pip install gguf")
    folder = cache() / "gguf" / f"{file.stem}-{sha256_of(file)[:16]}-{transformers.__version__}"
    if not folder.exists():
        logger.warning("%s is converted once, to %s", file, folder)
        try:
            read: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **read)
            model: Any = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **read)
        except (ValueError, KeyError, NotImplementedError) as error:
            raise ValueError(f"{file} cannot be read by transformers: {error}") from error
        # transformers marks a model read from GGUF as quantized and refuses to save it, though its weights are floats.
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        with staged(folder) as stage:
            model.save_pretrained(stage)
            tokenizer.save_pretrained(stage)
    return folder
