"""Compares an export with the model that was trained."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors import safe_open

from hftrain.distributed import norm_of

EQUAL = 1e-4  # relative difference of two norms of the same numbers, summed in another order


def check_export(
    folder: str | Path, weights: Iterable[tuple[Sequence[str], Sequence[int], float]], adapters: Iterable[str] = ()
) -> None:
    """Reads the safetensors files of `folder` back and compares names, shapes and norms.

    weights: (names, one of which is in the file; shape; norm) of each trained parameter. If the architecture has other
        names on the disk, the sums are compared.
    adapters: names of PEFT adapters, which the files do not contain. A tensor of an adapter may be longer, since PiSSA
        exports twice the rank; then its first part is compared.

    Raises:
        ValueError: lists tensors that are missing, empty or different, one per line.
        FileNotFoundError: the folder was deleted or renamed since it was written.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(errno.ENOENT, "the weights written there are gone", str(folder))
    adapters = list(adapters)
    expected: dict[str, tuple[str, tuple[int, ...], float]] = {}
    for names, shape, norm in weights:
        names = [on_disk(name, adapters) for name in names]
        expected |= dict.fromkeys(names, (names[0], tuple(shape), norm))
    missing = {first: (shape, norm) for first, shape, norm in expected.values()}
    problems, other_names = [], []
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118, it is not a dict
                tensor = tensors.get_tensor(name)
                if name not in expected:
                    other_names.append((tensor.numel(), norm_of(tensor)))
                    continue
                first, shape, norm = expected[name]
                missing.pop(first, None)
                part = (
                    tensor[tuple(slice(size) for size in shape)] if adapters and tensor.dim() == len(shape) else tensor
                )
                if tuple(part.shape) != shape:
                    problems.append(f"{name}: shape {tuple(tensor.shape)} in the file, {shape} trained")
                elif not math.isclose(norm_of(part), norm, rel_tol=EQUAL):
                    problems.append(f"{name}: norm {norm_of(part):.6g} in the file, {norm:.6g} trained")
    if missing and not adapters and other_names:
        there = sum(numbers for numbers, _ in other_names), math.hypot(*(norm for _, norm in other_names))
        trained = sum(math.prod(s) for s, _ in missing.values()), math.hypot(*(norm for _, norm in missing.values()))
        if there[0] == trained[0] and math.isclose(there[1], trained[1], rel_tol=EQUAL):
            missing = {}
    problems += [f"{name}: not in the file" for name in missing]
    if problems:
        shown = "\n  ".join([*problems[:9], *([f"and {len(problems) - 9} more"] if len(problems) > 9 else [])])
        raise ValueError(f"the export in {folder} is not the model that was trained:\n  {shown}")


def on_disk(name: str, adapters: Iterable[str]) -> str:
    """The name in a file of a parameter of these PEFT adapters."""
    for adapter in adapters:
        name = name.replace(f".modules_to_save.{adapter}", "")
        name = name.replace(f".lora_magnitude_vector.{adapter}.weight", ".lora_magnitude_vector")  # of DoRA
        name = name.replace(f".{adapter}", "")
    return name
