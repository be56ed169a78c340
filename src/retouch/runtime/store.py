"""Where snapshots keep their tensors: a device's memory and the host's up to budgets, mapped files beyond them."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from retouch.errors import OptionError
from retouch.kernels.devices import HOST
from retouch.ops.copy import SCALE, SMALLEST, quantized, restored
from retouch.runtime.blocks import Block, Layout, in_file, spill_folder

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8, "auto": torch.int8}
"""Storage types of rows by their names: of float32 rows, and int8 of all that have channels enough."""

AUTO_ERROR = 0.05
"""Error of a channel of int8 rows, as a part of its own size, up to which "auto" takes them; others are bfloat16."""

FEWEST = 16
"""Channels of the narrowest rows that are kept as int8: others gain little, and are what networks read and return."""

PART = 64
"""Channels of int8 rows that have a scale of their own, as those of a head of attention have."""

SAMPLED = 64
"""Rows of which the error is measured."""

MEMORY_SHARE = 0.4
"""Share of the free memory, of the host and of a device, that a store takes unless it is told otherwise."""

EDIT_SHARE = 0.2
"""Share of a budget that recordings leave to edits, which are small and should be quick."""


def _allocate(nbytes: int) -> Tensor:
    return torch.empty(nbytes, dtype=torch.uint8)


@dataclass(frozen=True)
class Memory:
    """Memory for blocks: of a device (`on_device`) or the host. `allocate` gives uint8 and takes `taken` of it."""

    on_device: bool = False
    allocate: Callable[[int], Tensor] = _allocate
    taken: Callable[[int], int] = int


HOST_MEMORY = (Memory(),)


class Store:
    """Memory and disk for blocks.

    budget: bytes of memory to use before blocks go to files; None: 40 % of what is free now.
    folder: where those files go (without a name, so they vanish with the process); None: a folder for
        temporary files on a disk.
    dtype: how float32 rows are stored, "fp32" (as they are), "bf16", "fp16", "int8" (with scales, see `parts_of`; those
        of 16-bit networks, too) or "auto" (int8 where the measured error is small, else bfloat16).
    device_budget: bytes of the memory of `device` to use before blocks go to the host's; None: 40 % of what is free.
    history: bytes that what edits computed may take anywhere, for whoever makes them to keep to; None: 40 % of what is
        free.

    Raises OptionError for another `dtype` and for a budget below 0.
    """

    def __init__(
        self,
        budget: int | None = None,
        folder: Path | None = None,
        dtype: str = "fp32",
        device_budget: int | None = None,
        device: torch.device = HOST,
        history: int | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise OptionError(f"unknown storage type {dtype!r}; there are {', '.join(DTYPES)}")
        for given in (budget, device_budget, history):
            if given is not None and given < 0:
                raise OptionError(f"a budget of {given} bytes is negative")
        self.budget = int(MEMORY_SHARE * free_memory()) if budget is None else budget
        self.device_budget = int(MEMORY_SHARE * free_on(device)) if device_budget is None else device_budget
        self.history = int(MEMORY_SHARE * free_memory()) if history is None else history
        self.folder = folder
        self.dtype_name, self.dtype = dtype, DTYPES[dtype]
        self.on_device = 0
        self.in_memory = 0
        self.in_files = 0
        self._lock = RLock()  # blocks end in any thread, also while this one counts

    def stored(self, dtype: torch.dtype, rows: Tensor | None = None, narrow: bool = False) -> torch.dtype:
        """The type that rows of `dtype` are stored in; of such `rows` `[M, C]`, where that depends on them.

        narrow: as int8, whatever others are stored as.
        """
        if self.dtype != torch.int8 and not narrow:
            return self.dtype if dtype == torch.float32 else dtype
        if rows is None or rows.shape[1] < FEWEST or not dtype.is_floating_point:
            return dtype
        exact = narrow or self.dtype_name == "int8" or error_of(rows) <= AUTO_ERROR
        return torch.int8 if exact else torch.bfloat16 if dtype == torch.float32 else dtype

    def fits(self, nbytes: int, base: bool = False, on_device: bool = False) -> bool:
        """True while `nbytes` more stay inside the budget of the host's memory, or the device's (`on_device`).

        A whole recording (`base`) leaves some of it to edits.
        """
        budget, used = (self.device_budget, self.on_device) if on_device else (self.budget, self.in_memory)
        return used + nbytes <= ((1 - EDIT_SHARE) * budget if base else budget)

    def block(
        self,
        layout: Layout,
        notes: dict[str, Any],
        file: Path | None = None,
        base: bool = False,
        memories: Sequence[Memory] = HOST_MEMORY,
        beside: Mapping[str, Tensor] | None = None,
    ) -> Block:
        """A block to be filled: at `file` if one is named, else in the first of `memories` that has room for it,
        else in a file without a name.

        beside: tensors that it holds as well, and that nobody writes any more: as they are, or copied to the file.
        base: it holds a whole recording. Raises StoreError when the disk is full.
        """
        beside = beside or {}
        if file is None:
            for memory in memories:
                taken = memory.taken(layout.nbytes) + sum(tensor.nbytes for tensor in beside.values())
                if self.fits(taken, base, memory.on_device):
                    made = memory.allocate(layout.nbytes)
                    return self._counted(Block(made, layout, beside, notes, on_device=memory.on_device), taken)
        return self._counted(in_file(layout, beside, notes, file, self.folder or spill_folder()))

    def adopt(self, tensors: dict[str, Tensor], notes: dict[str, Any], on_device: bool = False) -> Block:
        """A block of tensors that exist already, on a device if `on_device`, and that nobody writes any more."""
        return self._counted(Block.of(tensors, notes, near=on_device))

    @property
    def taken(self) -> int:
        """Bytes of all blocks, wherever they are."""
        return self.on_device + self.in_memory + self.in_files

    def _counted(self, block: Block, taken: int | None = None) -> Block:
        taken = block.nbytes if taken is None else taken
        count = "on_device" if block.on_device else "in_memory" if block.file is None else "in_files"
        self._count(count, taken)
        weakref.finalize(block, _uncount, weakref.ref(self), count, taken)
        return block

    def _count(self, count: str, nbytes: int) -> None:
        with self._lock:
            setattr(self, count, getattr(self, count) + nbytes)


def error_of(rows: Tensor) -> float:
    """Root mean square error of the channels of rows `[M, C]` as int8, as parts of their own; of a sample of rows."""
    sample = rows[:: max(1, len(rows) // SAMPLED)].float()
    levels = quantized(sample, parts_of(rows.shape[1]))
    errors = (restored(levels, rows.shape[1]) - sample).norm(dim=0) / sample.norm(dim=0).clamp(min=SMALLEST)
    return float(errors.square().mean().sqrt())


def columns_of(channels: int, dtype: torch.dtype) -> int:
    """Columns of stored rows."""
    return channels + SCALE * parts_of(channels) if dtype == torch.int8 else channels


def parts_of(channels: int) -> int:
    """Parts of stored int8 rows that have a scale each: of `PART` channels, or one of all."""
    return channels // PART if channels and channels % PART == 0 else 1


def _uncount(store: weakref.ref[Store], count: str, nbytes: int) -> None:
    alive = store()
    if alive is not None:
        alive._count(count, -nbytes)


def free_memory() -> int:
    """Bytes of memory that can be used without swapping, as far as the system tells."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 4 << 30


def free_on(device: torch.device) -> int:
    """Bytes that are free on a device; none where it has no memory but the host's."""
    if device.type in ("cpu", "meta"):
        return 0
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    library = getattr(torch, device.type)  # torch.accelerator has no figures before PyTorch 2.10
    free, _ = library.mem_get_info(device)
    return int(free + library.memory_reserved(device) - library.memory_allocated(device))
