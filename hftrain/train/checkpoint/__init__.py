"""Checkpoints that survive kill -9 and a full disk, verify, resume bit-equal, and load with plain `from_pretrained`.

    OUT/checkpoint-N/
        model.safetensors, config.json, tokenizer...   what `save_pretrained` exports, or the adapter
        training-00001.safetensors, ...                full tensors by name: "model.*", "optimizer.*", "ema.*"
        state.json                                     small JSON values: step, samples seen, seconds, best metric...
        manifest.json                                  written last: what the run is, where each tensor is, the sha256s

A tensor "model.*" or "ema.*" that is in the export already is not stored again: the manifest has the place of each one.

Under ZeRO and FSDP2 each process writes what it has in memory, and the manifest lists the pieces of each tensor:

        config.json, tokenizer...                      no weights for `from_pretrained`
        shard-0000R-00001.safetensors, ...             pieces of flattened tensors, written by rank R

A run may resume from both kinds on other hardware: each process reads the ranges that it needs. Nothing is pickled.

A checkpoint is written in `OUT/.saving-checkpoint-N` and renamed when all of it is on the disk: a folder named
`checkpoint-N` is complete. The next run's `lock` removes or restores what a kill left under a hidden name. `Background`
writes in another thread from copies.
"""

from hftrain.train.checkpoint.background import Background, memory_lacks
from hftrain.train.checkpoint.contract import check_contract, differences
from hftrain.train.checkpoint.exported import check_export, on_disk
from hftrain.train.checkpoint.locking import lock
from hftrain.train.checkpoint.reading import Saved, checkpoints, read, verify
from hftrain.train.checkpoint.remote import Remote, Uploads, fetch
from hftrain.train.checkpoint.runs import Row, check_free_space, contract_of, describe, find, rotate, set_aside
from hftrain.train.checkpoint.writing import OURS, SHARD, Result, refuges, save, versions, write

__all__ = [
    "OURS",
    "SHARD",
    "Background",
    "Remote",
    "Result",
    "Row",
    "Saved",
    "Uploads",
    "check_contract",
    "check_export",
    "check_free_space",
    "checkpoints",
    "contract_of",
    "describe",
    "differences",
    "fetch",
    "find",
    "lock",
    "memory_lacks",
    "on_disk",
    "read",
    "refuges",
    "rotate",
    "save",
    "set_aside",
    "verify",
    "versions",
    "write",
]
