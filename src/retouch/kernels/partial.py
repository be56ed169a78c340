"""Backends that need not have every kernel: the reference ones stand in, on the same memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from retouch.ir.geometry import IntArray
from retouch.ops.copy import by_source
from retouch.ops.gemm import Packed
from retouch.ops.int8_gemm import Levels
from retouch.ops.specs import SPECS

STAND_IN = "reference"
"""The backend that computes what another one lacks."""


class PartialBackend:
    """Base of backends: which kernels are their own, and who computes the others.

    A subclass gives its kernels by the name of their `KernelSpec`, and says how the reference reads its handles.
    """

    name: str
    sums_dtype: torch.dtype
    narrow_rows = True
    native = torch.float32
    own_threads = False

    def __init__(self, kernels: Mapping[str, Callable[..., Any]]) -> None:
        unknown = sorted(set(kernels) - set(SPECS))
        assert not unknown, f"kernels of the {self.name} backend have no KernelSpec: {', '.join(unknown)}"
        self.kernels = dict(kernels)
        reason = f"the {self.name} backend has no kernel of that name"
        self.lacking = {name: reason for name in SPECS if name not in kernels}
        self._borrowed: dict[str, Callable[..., Any]] = {}

    def kernel(self, name: str) -> Callable[..., Any]:
        own = self.kernels.get(name)
        if own is not None:
            return own
        if name not in self._borrowed:
            self._borrowed[name] = self._reference(name)
        return self._borrowed[name]

    def _reference(self, name: str) -> Callable[..., None]:
        reference, plain = SPECS[name].on(self.sums_dtype), self.plain

        def run(*args: Any) -> None:
            reference(*pytree.tree_map(plain, args))

        return run

    def plain(self, handle: Any) -> Any:
        """What a handle stands for, as a reference kernel takes it; it shares the handle's memory."""
        raise NotImplementedError

    def computed_by(self, kernels: Iterable[str]) -> str:
        names = dict.fromkeys(self.name if name in self.kernels else STAND_IN for name in kernels)
        return ", ".join(names) or self.name

    def empty(self, rows: int, channels: int, dtype: torch.dtype) -> Tensor:
        """Uninitialised rows for a recording."""
        raise NotImplementedError

    def memory(self, nbytes: int) -> Tensor:
        return self.empty(nbytes, 1, torch.uint8)[:, 0]

    def carved(self, memory: Tensor) -> Callable[[int, int, int, torch.dtype], Any]:
        """What makes handles in memory of `empty`."""
        raise NotImplementedError

    def carver(self, parts: Sequence[tuple[int, int, int, torch.dtype]]) -> Callable[[Tensor], list[Any]]:
        def carve(memory: Tensor) -> list[Any]:
            place = self.carved(memory)
            return [place(*part) for part in parts]

        return carve

    def copies(self, copies: Sequence[tuple[Any, Any, Any, Any]]) -> Callable[..., None]:
        single = [each for copy in copies for each in self._single(*copy)]

        def run(*lists: list[Any]) -> None:
            def handle(end: Any) -> Any:
                return lists[end[0]][end[1]] if isinstance(end, tuple) else end

            self.kernel("copy_many")([(handle(to), rows, handle(at), places) for to, rows, at, places in single])

        return run

    def _single(self, to: Any, rows: Any, source: Any, places: Any) -> Iterator[tuple[Any, Any, Any, Any]]:
        """A copy of several sources as one of each."""
        if not isinstance(source, list):
            yield to, rows, source, places
            return
        which, there = map(self.array, places)
        parts = by_source(None if rows is None else self.array(rows), which, there, len(source))
        for each, (where, at) in zip(source, parts, strict=True):
            yield to, self.index(where), each, self.index(at)

    def index(self, array: IntArray) -> Any:
        """A handle of an index table."""
        raise NotImplementedError

    def array(self, index: Any) -> IntArray:
        """The table that a handle is of."""
        found: IntArray = self.plain(index).numpy()
        return found

    def arena(self, nbytes: int) -> Callable[[int, int, int, torch.dtype], Any]:
        return self.carved(self.empty(nbytes, 1, torch.uint8)[:, 0])

    def pack(self, weight: Tensor, groups: int) -> Any:
        return self.own_pack(weight, groups) if "gemm" in self.kernels else Packed(weight, groups)

    def pack_levels(self, levels: Levels) -> Any:
        return self.own_pack_levels(levels) if "int8_gemm" in self.kernels else levels

    def own_pack_levels(self, levels: Levels) -> Any:
        """Packed levels for the backend's own product in int8."""
        raise NotImplementedError

    def own_pack(self, weight: Tensor, groups: int) -> Any:
        """Packed weights for the backend's own product."""
        raise NotImplementedError

    @property
    def packing(self) -> str:
        return ""

    def packed_memory(self, packed: Any) -> Tensor:
        raise NotImplementedError

    def packed_from(self, memory: Tensor, outputs: int, taps: int, channels: int, groups: int, kind: str) -> Any:
        raise NotImplementedError

    def holder(self, handle: Any) -> Any:
        """None."""
        return None

    def point(self, holder: Any, handle: Any | None) -> None:
        """Never called."""
        raise NotImplementedError

    def packed_bytes(self, packed: Any) -> int:
        return int(packed.nbytes)
