"""Files of a model folder that cannot be read: which it is, why, and what to do, in a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PICKLED = re.compile(r"GLOBAL:? (?:GLOBAL )?([\w.]+)")  # what an unpickler that runs nothing was asked for


@contextmanager
def naming_damage(name: str | Path, revision: str | None = None) -> Iterator[None]:
    """Inside, the model, adapter or tokenizer `name` is loaded.

    Raises:
        ValueError: a file of them is damaged, would run code, or does not fit the configuration.
    """
    try:
        yield
    except Exception as error:  # whatever the readers of each format raise: it is told only if a file is to blame
        if said := damage(folder_of(name, revision)):
            raise ValueError(said) from error
        if isinstance(error, RuntimeError) and "ignore_mismatched_sizes" in str(error):
            raise ValueError(
                f"the weights in {name} have other sizes than its config.json says, as the table above has it: put "
                "back the config.json that belongs to them"
            ) from error
        if "no file named model.safetensors" in str(error):
            raise ValueError(
                f"{name} holds no weights (model.safetensors, or shards with an index): name the folder that training "
                "wrote, or a checkpoint-N in it; an interrupted download has to be made again"
            ) from error
        raise


def folder_of(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a model, which may be one of the Hub that was had before."""
    from huggingface_hub import try_to_load_from_cache

    if not Path(name).is_dir() and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)):
        found = try_to_load_from_cache(str(name), "config.json", revision=revision)
        return Path(found).parent if isinstance(found, str) else Path(name)
    return Path(name)


def damage(folder: Path) -> str:
    """What is wrong with the first file of a model in `folder` that cannot be read; "" if all can."""
    files = sorted((*folder.glob("model*.safetensors"), *folder.glob("adapter_model*.safetensors")))
    files = files or sorted((*folder.glob("pytorch_model*.bin"), *folder.glob("adapter_model*.bin")))
    return next(filter(None, map(fault, [*sorted(folder.glob("*.json")), *files])), "")


def fault(file: Path) -> str:
    """What is wrong with a file of weights, or with a JSON file of a model; "" if it can be read."""
    import torch
    from safetensors import safe_open

    way_out = "copy or download it again (hftrain verify says which files have changed)"
    try:
        with file.open("rb") as opened:
            if opened.read(40).startswith(b"version https://git-lfs"):
                return f"{file} is a pointer of Git LFS, not the weights: run `git lfs pull` where it comes from"
        if file.suffix == ".json":
            described = json.loads(file.read_bytes())
            shards = {*described["weight_map"].values()} if file.name.endswith(".index.json") else set()
            lacking = sorted(shard for shard in shards if not (file.parent / shard).is_file())
            return f"{file} names {lacking[0]}, which is not there: {way_out}" if lacking else ""
        if file.suffix == ".safetensors":
            safe_open(str(file), "pt")
        else:
            torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader's own, and what damaged bytes lead it to
        if found := PICKLED.search(str(error)):
            return (
                f"{file} is a pickle that asks for {found[1]}: code is not run, and weights need none. Take the "
                "model's .safetensors, or weights from somebody you trust"
            )
        cause = (
            f"{type(error).__name__}: {error}"
            if file.suffix != ".bin"
            else "no file of torch.save, or one that would run code, which was not run"
        )
        return f"{file} is damaged and cannot be read ({cause.splitlines()[0]}): {way_out}"
    return ""
