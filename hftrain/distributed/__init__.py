"""Runs on any number of processes: all differences between plain, DDP, FSDP2 and DeepSpeed ZeRO runs."""

from hftrain.distributed.agreement import require_agreement
from hftrain.distributed.loading import arrive, draw, gathered, is_away, load_once, unsharded_models
from hftrain.distributed.pieces import Piece, load_like, load_optimizer, load_parameters, pieces
from hftrain.distributed.start import die_with_parent, make_accelerator, was_launched
from hftrain.distributed.state import Weight, fingerprint_parameters, norm_of, weights, without_state
from hftrain.distributed.step import (
    accumulating,
    add_up,
    average_gradients,
    backward,
    clear_gradients,
    clip_and_step,
    describe,
    exchange_nothing_in_forward,
    is_out_of_memory,
    is_sharded,
    leaves,
    set_learning_rate,
    total,
    zero_stage,
)
from hftrain.distributed.waiting import MainThreads, OtherThreads, advancing
from hftrain.distributed.watch import moved
from hftrain.distributed.wrap import (
    check_gradients,
    check_sharing,
    expect_missing_gradients,
    place,
    set_bucket_sizes,
    sum_in_fp32,
    unsaved_buffers,
)

__all__ = [
    "MainThreads",
    "OtherThreads",
    "Piece",
    "Weight",
    "accumulating",
    "add_up",
    "advancing",
    "arrive",
    "average_gradients",
    "backward",
    "check_gradients",
    "check_sharing",
    "clear_gradients",
    "clip_and_step",
    "describe",
    "die_with_parent",
    "draw",
    "exchange_nothing_in_forward",
    "expect_missing_gradients",
    "fingerprint_parameters",
    "gathered",
    "is_away",
    "is_out_of_memory",
    "is_sharded",
    "leaves",
    "load_like",
    "load_once",
    "load_optimizer",
    "load_parameters",
    "make_accelerator",
    "moved",
    "norm_of",
    "pieces",
    "place",
    "require_agreement",
    "set_bucket_sizes",
    "set_learning_rate",
    "sum_in_fp32",
    "total",
    "unsaved_buffers",
    "unsharded_models",
    "was_launched",
    "weights",
    "without_state",
    "zero_stage",
]
