"""The `cpu` backend: native kernels on rows.

`Rows` wraps a [rows, channels] matrix, `Index` an int32 table of rows and `Program` a row program;
they are made once and checked then, so that a call costs a few microseconds. Every kernel computes
in float32 (sums in float64) and rounds once, at the store. A row's value depends on its own inputs
only, never on the number of rows, on the other rows or on the number of threads.
"""

from collections.abc import Iterable
from typing import Any

# PyTorch comes first: its OpenMP runtime is then the one the extension finds, and both share a pool.
import torch

from retouch.kernels.cpu._cpu import (
    Arena,
    Index,
    Packed,
    Program,
    Rows,
    Sampler,
    attention,
    available_isas,
    channel_sums,
    copy_rows,
    depthwise,
    empty,
    fingerprint,
    fit_probes,
    fold_mean,
    fold_norm,
    gemm,
    isa,
    move_sums,
    num_threads,
    pack,
    pool,
    release_memory,
    row_map,
    set_isa,
    set_num_threads,
    shuffle,
    swap_rows,
    unshuffle,
)

__all__ = [
    "Arena",
    "Index",
    "Packed",
    "Program",
    "Rows",
    "Sampler",
    "attention",
    "available_isas",
    "channel_sums",
    "copy_many",
    "copy_rows",
    "depthwise",
    "empty",
    "fingerprint",
    "fit_probes",
    "fold_mean",
    "fold_norm",
    "gemm",
    "isa",
    "move_sums",
    "num_threads",
    "pack",
    "pool",
    "release_memory",
    "row_map",
    "set_isa",
    "set_num_threads",
    "shuffle",
    "swap_rows",
    "unshuffle",
]

set_num_threads(torch.get_num_threads())


def copy_many(copies: Iterable[tuple[Any, ...]]) -> None:
    """See `retouch.ops.copy.copy_many`."""
    for each in copies:
        copy_rows(*each)
