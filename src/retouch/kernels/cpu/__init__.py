"""The `cpu` backend: native kernels on rows. Every name of the extension `_cpu` is one of this package.

`Rows` wraps a [rows, channels] matrix, `Index` an int32 table of rows and `Program` a row program;
they are made once and checked then, so that a call costs a few microseconds. `KERNELS` are the names of the
kernels, from the one list in `kernels.inc`. Every kernel computes in float32 (sums in float64) and rounds once, at
the store. A row's value depends on its own inputs only, never on the number of rows, on the other rows or on the
number of threads; with `winograd` also on how rows are cut into tiles.
"""

import atexit
from typing import Any

import torch

import retouch.kernels.cpu._cpu as _cpu

_cpu.set_num_threads(torch.get_num_threads())
atexit.register(_cpu.python_ends)


def __getattr__(name: str) -> Any:
    return getattr(_cpu, name)
