"""Files of a model folder that cannot be read: a message with the file, the reason and the way out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The name that a pickle wanted to import, from the error of a safe unpickler.
PICKLED = re.compile(r"GLOBAL:? (?:GLOBAL )?([\w.]+)")


@contextmanager
def naming_damage(name: str | Path, revision: str | None = None) -> Iterator[None]:
    """A context in which the model, adapter or tokenizer `name` is loaded.

    Raises:
        ValueError: one of its files is damaged, would run code, or does not fit the configuration.
    """
    try:
        yield
    except Exception as error:  # readers raise any kind of error; it is replaced only if a file is damaged
        if problem := damage(folder_of(name, revision)):
            raise ValueError(problem) from error
        if isinstance(error, RuntimeError) and "ignore_mismatched_sizes" in str(error):
            raise ValueError(
                f"the weights in {name} do not have the sizes of its config.json (see the table above): restore the "
                "config.json that belongs to them"
            ) from error
        missing = "no file named model.safetensors" in str(error)
        if missing and any(folder_of(name, revision).glob("shard-*.safetensors")):
            raise ValueError(
                f"{name} is a sharded checkpoint, which has no weights for `from_pretrained`: `hftrain merge {name}` "
                "writes them; or give the output folder of the finished run"
            ) from error
        if missing:
            raise ValueError(
                f"{name} contains no weights (model.safetensors, or shards with an index): give the output folder of a "
                "run, or a checkpoint-N in it; repeat an interrupted download"
            ) from error
        raise


def folder_of(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a model, also of a model of the Hub that is in the cache."""
    from huggingface_hub import try_to_load_from_cache

    if not Path(name).is_dir() and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)):
        cached = try_to_load_from_cache(str(name), "config.json", revision=revision)
        return Path(cached).parent if isinstance(cached, str) else Path(name)
    return Path(name)


def damage(folder: Path) -> str:
    """The problem of the first file of a model in `folder` that cannot be read; "" if all can."""
    files = sorted((*folder.glob("model*.safetensors"), *folder.glob("adapter_model*.safetensors")))
    files = files or sorted((*folder.glob("pytorch_model*.bin"), *folder.glob("adapter_model*.bin")))
    return next(filter(None, map(fault, [*sorted(folder.glob("*.json")), *files])), "")


def fault(file: Path) -> str:
    """The problem of a file of weights, or of a JSON file of a model; "" if it can be read."""
    import torch
    from safetensors import safe_open

    way_out = "copy or download it again (hftrain verify lists the files that have changed)"
    try:
        with file.open("rb") as opened:
            if opened.read(40).startswith(b"version https://git-lfs"):
                return f"{file} is a pointer of Git LFS, not the weights: run `git lfs pull` in its repository"
        if file.suffix == ".json":
            described = json.loads(file.read_bytes())
            shards = {*described["weight_map"].values()} if file.name.endswith(".index.json") else set()
            lacking = sorted(shard for shard in shards if not (file.parent / shard).is_file())
            return f"{file} lists {lacking[0]}, which is missing: {way_out}" if lacking else ""
        if file.suffix == ".safetensors":
            safe_open(str(file), "pt")
        else:
            torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader's own errors, and any error that damaged bytes cause
        if pickled := PICKLED.search(str(error)):
            return (
                f"{file} is a pickle that would run {pickled[1]}, which was refused: weights need no code. Use the "
                "model's .safetensors, or weights from a source you trust"
            )
        cause = (
            f"{type(error).__name__}: {error}"
            if file.suffix != ".bin"
            else "it was not written by torch.save, or would run code, which was refused"
        )
        return f"{file} is damaged and cannot be read ({cause.splitlines()[0]}): {way_out}"
    return ""
