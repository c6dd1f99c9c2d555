"""Writes tensors as safetensors files, and hashes them at the same time, without a second copy in memory.

The format: the length of a JSON header (8 bytes, little-endian), the header, then the bytes of all tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
CHUNK = 1 << 24  # bytes that are hashed while they are in the processor's cache


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], pulse: Callable[[], object]) -> dict[str, Any]:
    """Writes a file and flushes it to the disk; returns its size and sha256. `pulse` is called after each chunk.

    Raises:
        OSError: it cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # so that all are aligned
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(path, "wb", buffering=0) as file:
        for part in (len(text).to_bytes(8, "little"), text, *(bytes_of(tensor) for _, tensor in ordered)):
            view = memoryview(part)
            for start in range(0, len(view), CHUNK):
                chunk = view[start : start + CHUNK]
                digest.update(chunk)
                while chunk:
                    chunk = chunk[file.write(chunk) :]
                pulse()
        os.fsync(file.fileno())
    return {"size": 8 + len(text) + end, "sha256": digest.hexdigest()}


def bytes_of(tensor: torch.Tensor) -> Any:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()
