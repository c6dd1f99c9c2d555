"""A trained model for servers: merged, in half precision, in shards, as GGUF; with vectors to test servers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hftrain.data.sealed import seal
from hftrain.deploy.merge import PROMPTS, Parity, merge
from hftrain.deploy.serving import VECTORS
from hftrain.models.saved import kind, read_config

GGUF_TYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


@dataclass
class Vector:
    """The answer that a server of the model must give to one prompt with greedy decoding."""

    messages: list[dict[str, str]] | None  # None without a chat template: `prompt` is the text
    prompt: str  # the messages rendered by the chat template, with the begin of the assistant's turn
    prompt_ids: list[int]
    output_ids: list[int]
    margins: list[float]  # of each output token: its logit minus the second best; near 0, rounding decides
    output: str


def export(
    folder: str | Path,
    output: str | Path,
    *,
    dtype: str = "bfloat16",
    max_shard_size: str = "5GB",
    llama_cpp: str | Path | None = None,
    max_new_tokens: int = 32,
    **merging: Any,
) -> Parity:
    """`merge` to `output` in half precision, and beside it `test_vectors.json`, for `check_server`.

    Args:
        llama_cpp: a checkout of llama.cpp, or its convert_hf_to_gguf.py: writes model.gguf too.
        max_new_tokens: maximum tokens of each test vector's answer.
        merging: other arguments of `merge`.

    Raises:
        ValueError: as in `merge`, or the converter is missing or fails.
    """
    output = Path(output)
    converter = find_converter(llama_cpp) if llama_cpp else None
    parity = merge(folder, output, dtype=dtype, max_shard_size=max_shard_size, **merging)
    trust = merging.get("trust_remote_code", False)
    prompts, device = merging.get("prompts", PROMPTS), merging.get("device")
    vectors = make_vectors(output, prompts, max_new_tokens, device, trust_remote_code=trust)
    if vectors:
        described = {"dtype": dtype, "torch": torch.__version__, "vectors": [asdict(vector) for vector in vectors]}
        (output / VECTORS).write_text(json.dumps(described, ensure_ascii=False, indent=1), encoding="utf-8")
        seal(output, [VECTORS])
    if converter:
        seal(output, [convert_to_gguf(converter, output, dtype).name])
    return parity


@torch.no_grad()
def make_vectors(
    folder: Path,
    prompts: Sequence[str],
    max_new_tokens: int,
    device: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> list[Vector]:
    """The answers of the model in `folder`, in its stored precision; [] if the model does not generate text."""
    if not kind(folder, read_config(folder, trust_remote_code=trust_remote_code)).endswith("ForCausalLM"):
        return []
    trust: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    device = device or str(torch.accelerator.current_accelerator() or "cpu")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **trust).eval().to(device)
    vectors = []
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt}] if tokenizer.chat_template else None
        if messages:
            prompt = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        ids = tokenizer(prompt, add_special_tokens=messages is None)["input_ids"]
        generated = model.generate(
            torch.tensor([ids], device=device), max_new_tokens=max_new_tokens, do_sample=False, num_beams=1,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        output = generated.sequences[0, len(ids) :].tolist()
        best = [logits[0].float().topk(2).values for logits in generated.logits]
        margins = [round(float(first - second), 4) for first, second in best]
        text = str(tokenizer.decode(output, skip_special_tokens=True))
        vectors.append(Vector(messages, prompt, ids, output, margins, text))
    return vectors


def find_converter(llama_cpp: str | Path) -> Path:
    """llama.cpp's convert_hf_to_gguf.py, at this path or in this folder.

    Raises:
        ValueError: it is missing; the message says how to get it.
    """
    path = Path(llama_cpp).expanduser()
    path = path / "convert_hf_to_gguf.py" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"no convert_hf_to_gguf.py at {path}: llama.cpp's own converter, which comes with its source, writes GGUF. "
            "Run: git clone https://github.com/ggml-org/llama.cpp; pip install gguf; then use --gguf llama.cpp"
        )
    return path


def convert_to_gguf(converter: Path, folder: Path, dtype: str) -> Path:
    """Writes folder/model.gguf from the model in `folder`.

    Raises:
        ValueError: the converter fails; the message has the end of its output.
    """
    file = folder / "model.gguf"
    command = [sys.executable, str(converter), str(folder), "--outfile", str(file), "--outtype", GGUF_TYPES[dtype]]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode or not file.is_file():
        file.unlink(missing_ok=True)
        raise ValueError(f"{folder} is written, but not as GGUF: {' '.join(command)} failed:\n{run.stderr[-2000:]}")
    return file
