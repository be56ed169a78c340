"""Blocks: named tensors in one piece, in memory or in a file.

In a file a block has the safetensors layout (https://github.com/huggingface/safetensors: eight bytes of header length,
a JSON header, the tensors), so that one written once is both the mapping that updates read and the file that a saved
session keeps.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from retouch.errors import RetouchError

ALIGNMENT = 64
UNNAMED = Path()
"""Stands for a file that has no name any more."""

_NAMES = {
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class StoreError(RetouchError, RuntimeError):
    """Tensors cannot be kept or read back: disk full, file truncated or altered, memory exhausted."""


@dataclass(frozen=True)
class Spec:
    """Name, shape and dtype of one tensor of a block."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        size = self.dtype.itemsize
        for dimension in self.shape:
            size *= dimension
        return size

    @staticmethod
    def of(name: str, tensor: Tensor) -> Spec:
        """The specification of a tensor."""
        return Spec(name, tuple(tensor.shape), tensor.dtype)


class Layout:
    """Where tensors lie in one piece of memory: `offsets` in bytes, one for each of `specs`; `nbytes` of all.

    They lie one after the other without gaps, as the format asks; the widest types come first, so that each is aligned
    to its items.
    """

    def __init__(self, specs: Sequence[Spec]) -> None:
        self.specs = tuple(specs)
        self.offsets = [0] * len(self.specs)
        end = 0
        for i in sorted(range(len(self.specs)), key=lambda i: -self.specs[i].dtype.itemsize):
            self.offsets[i] = end
            end += self.specs[i].nbytes
        self.nbytes = end

    def views(self, memory: Tensor) -> dict[str, Tensor]:
        """The tensors by name, in uint8 memory."""
        found = {}
        for spec, offset in zip(self.specs, self.offsets, strict=True):
            part = memory[offset : offset + spec.nbytes]
            found[spec.name] = part.view(spec.dtype).reshape(spec.shape)
        return found


@dataclass(eq=False)
class Block:
    """Named tensors that are not written again once they are filled: those of a `layout` in `memory`, and others that
    lie `beside` it.

    `file` is where they are mapped from; None: memory, on a device if `on_device`. `notes` are plain data that belong
    to them.
    """

    memory: Tensor
    layout: Layout
    beside: Mapping[str, Tensor]
    notes: dict[str, Any]
    file: Path | None = None
    on_device: bool = False
    nbytes: int = field(init=False)

    @staticmethod
    def of(tensors: Mapping[str, Tensor], notes: dict[str, Any], file: Path | None = None, near: bool = False) -> Block:
        """A block of tensors that exist already, on a device if `near`."""
        return Block(_EMPTY, NOTHING, tensors, notes, file, near)

    def __post_init__(self) -> None:
        self.nbytes = self.layout.nbytes + sum(t.numel() * t.element_size() for t in self.beside.values())

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All of them by name."""
        return {**self.layout.views(self.memory), **self.beside}


NOTHING = Layout(())
_EMPTY = torch.empty(0, dtype=torch.uint8)


def header(layout: Layout, notes: dict[str, Any]) -> bytes:
    """The header of a safetensors file, padded so that tensors begin at an aligned address."""
    entries: dict[str, Any] = {"__metadata__": {"notes": json.dumps(notes)}}
    for spec, start in zip(layout.specs, layout.offsets, strict=True):
        entries[spec.name] = {
            "dtype": _NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [start, start + spec.nbytes],
        }
    if len(entries) != len(layout.specs) + 1:
        raise ValueError("two tensors of a block have the same name")
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def in_file(
    layout: Layout, others: Mapping[str, Tensor], notes: dict[str, Any], file: Path | None, folder: Path
) -> Block:
    """A block in a new mapped file, without a name in `folder` when `file` is None; to be filled but for the `others`,
    which come after the tensors of `layout`. StoreError when the disk is full.
    """
    whole = Layout([*layout.specs, *(Spec.of(name, tensor) for name, tensor in others.items())])
    head = header(whole, notes)
    memory = _mapped(len(head) + whole.nbytes, file, folder)
    memory[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
    block = Block(memory[len(head) :], whole, {}, notes, file or UNNAMED)
    for name, tensor in others.items():
        block.tensors[name].copy_(tensor)
    return block


def _mapped(size: int, file: Path | None, folder: Path) -> Tensor:
    """Writable shared mapping of a new file; one without a name in `folder` when `file` is None."""
    try:
        descriptor = _created(file, folder)
        try:
            # A full disk must be an error here: under a mapping it would be a SIGBUS.
            _reserve(descriptor, size)
            mapping = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
    except OSError as error:
        if file is not None and not isinstance(error, FileExistsError):
            file.unlink(missing_ok=True)
        where = file.parent if file else folder
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(
                f"no space left in {where}: {size / 1e6:.0f} MB are needed; free some, or choose another folder"
            ) from error
        raise StoreError(f"cannot keep {size / 1e6:.0f} MB in {where}: {error.strerror or error}") from error
    return torch.frombuffer(mapping, dtype=torch.uint8)


def _created(file: Path | None, folder: Path) -> int:
    if file is not None:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix="retouch-", dir=folder)
    os.unlink(name)
    return descriptor


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    chunk = bytes(1 << 20)
    for start in range(0, size, len(chunk)):
        os.write(descriptor, chunk[: size - start])


def write(file: Path, block: Block) -> None:
    """Write a block to a new file. Raises StoreError when that fails; nothing is left behind then."""
    in_file(NOTHING, block.tensors, block.notes, file, file.parent)


def read(file: Path) -> Block:
    """Map a block that was written; StoreError when the file is missing, truncated or no block."""
    try:
        with safe_open(file, framework="pt") as opened:
            notes = json.loads((opened.metadata() or {})["notes"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return Block.of(tensors, notes, file)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StoreError(f"{file} cannot be read: {error}") from error


def spill_folder() -> Path:
    """A folder for temporary files that is on a disk where the system has one."""
    chosen = os.environ.get("RETOUCH_SPILL") or os.environ.get("TMPDIR")
    if chosen:
        Path(chosen).mkdir(parents=True, exist_ok=True)
        return Path(chosen)
    large = Path("/var/tmp")
    return large if large.is_dir() and os.access(large, os.W_OK) else Path(tempfile.gettempdir())
