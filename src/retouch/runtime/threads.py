"""How many threads PyTorch uses between kernels.

After an operation of several threads PyTorch's (OpenMP's) stay awake for some milliseconds, in case of another one, on
the processors where those of the kernels are to run next. So one small product or one copy between kernels can cost
more than it takes alone.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path

import torch

from retouch.kernels import Backend

WORTH = 500_000_000
"""Multiply-accumulates from which several threads gain more than their waiting costs."""

LIBRARIES = ("libtorch_cpu.so", "libtorch_cpu.dylib")


class _Former(threading.local):
    """What a thread had before it went on alone, 0 while it does not."""

    count = 0


_former = _Former()


def thread_count() -> int:
    """Threads for kernels: as many as PyTorch has, or had before `one_thread`."""
    return _former.count or torch.get_num_threads()


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes on the calling thread alone; kernels do as before."""
    if _former.count:
        yield
        return
    _former.count = count = torch.get_num_threads()
    try:
        _set(1)
        yield
    finally:
        _former.count = 0
        _set(count)


@contextmanager
def all_threads() -> Iterator[None]:
    """PyTorch computes on all its threads, inside `one_thread`, too."""
    count = _former.count
    if not count:
        yield
        return
    _former.count = 0
    try:
        _set(count)
        yield
    finally:
        _set(1)
        _former.count = count


def beside(backend: Backend) -> AbstractContextManager[None]:
    """PyTorch's threads while a backend computes: one, where kernels have others."""
    return one_thread() if backend.own_threads else all_threads()


def threads_for(effort: int) -> AbstractContextManager[None]:
    """PyTorch's threads for something beside kernels: all where that is worth their waiting."""
    return all_threads() if effort >= WORTH else nullcontext()


def _set(count: int) -> None:
    for setter in _setters():
        setter(count)


@cache
def _setters() -> tuple[Callable[[int], object], ...]:
    """What sets the number of the calling thread alone: OpenMP's, and MKL's, which has its own.

    `torch.set_num_threads` would be for every thread that begins meanwhile, and for good. There are none where PyTorch
    has no OpenMP, and on Windows.
    """
    folder = Path(torch.__file__).parent / "lib"
    library = next((ctypes.CDLL(str(folder / name)) for name in LIBRARIES if (folder / name).exists()), None)
    names = "omp_set_num_threads", "MKL_Set_Num_Threads_Local"
    return tuple(getattr(library, name) for name in names if hasattr(library, name))
