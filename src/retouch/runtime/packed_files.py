"""Packed weights in files of the cache folder: packed by the first process that needs them, mapped by all others.

A file belongs to what its weights were packed of and for: their contents, the version of this package, the backend and
its instruction set. For anything else there is another file. They are safetensors, and nothing in them is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from retouch.errors import FallbackWarning, OptionError
from retouch.ir.operands import Slot, SlotKind
from retouch.kernels import Backend
from retouch.runtime.rates import cache_folder
from retouch.runtime.store import Block, StoreError, read, write

SUFFIX = ".packed.safetensors"

LIMIT = 32 << 30
"""Bytes of all files; those that were not used for longest are removed. Half of what is free on the disk, if less."""

SAMPLED = 1024
"""One of this many 64-byte lines of each tensor is compared with its checksum when a file is mapped."""


Shapes = Mapping[Slot, tuple[int, ...]]
"""Of weights: outputs, taps and channels of a group."""


@dataclass(frozen=True)
class PackedFiles:
    """The files in a folder, for a backend. OptionError for a backend whose packed weights are in no file."""

    backend: Backend
    folder: Path

    @staticmethod
    def of(backend: Backend) -> PackedFiles:
        """Those of the cache folder (`retouch.runtime.rates.cache_folder`)."""
        if not backend.packing:
            raise OptionError(
                f"map_weights: the {backend.name} backend does not keep packed weights in files; the cpu backend does"
            )
        return PackedFiles(backend, packed_folder())

    def load(self, hashes: Sequence[int], shapes: Shapes) -> dict[Slot, Any] | None:
        """The handles of weights that were packed from tensors of these checksums; None where there is no such file.

        One that is damaged is removed.
        """
        slots, notes = list(shapes), self._notes(hashes, shapes)
        file = self._file(notes)
        if not file.is_file():
            return None
        try:
            found = self._mapped(file, notes, slots)
            os.utime(file)
        except (StoreError, ValueError, OSError):
            file.unlink(missing_ok=True)
            return None
        return found

    def save(self, hashes: Sequence[int], shapes: Shapes, handles: Mapping[Slot, Any]) -> None:
        """Write packed weights to their file; a FallbackWarning where there is no room for them."""
        notes = self._notes(hashes, shapes)
        tensors = {str(i): self.backend.packed_memory(handles[slot]) for i, slot in enumerate(shapes)}
        size = sum(tensor.numel() for tensor in tensors.values())
        file = self._file(notes)
        part = file.with_name(f".{file.name}-{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._make_room(size)
            part.unlink(missing_ok=True)
            write(part, Block.of(tensors, {**notes, "sample": self._sample(tensors)}))
            part.replace(file)
        except (StoreError, OSError) as error:
            warnings.warn(
                f"packed weights stay in the memory of this process: {error}; choose another cache folder "
                "(RETOUCH_CACHE), clear it (`retouch cache --clear`), or leave out map_weights",
                FallbackWarning,
                stacklevel=2,
            )

    def _mapped(self, file: Path, notes: Mapping[str, Any], slots: Sequence[Slot]) -> dict[Slot, Any]:
        """Handles over a mapped file; ValueError unless it is the one that its notes should say."""
        block = read(file)
        tensors = {str(i): block.tensors[str(i)] for i in range(len(slots)) if str(i) in block.tensors}
        if len(tensors) != len(slots) or block.notes != {**notes, "sample": self._sample(tensors)}:
            raise ValueError(f"{file} is damaged")
        return {
            slot: self.backend.packed_from(tensors[str(i)], outputs, taps, channels, groups, kind)
            for i, (slot, (outputs, taps, channels, groups), kind) in enumerate(
                zip(slots, notes["shapes"], notes["kinds"], strict=True)
            )
        }

    def _sample(self, tensors: Mapping[str, Tensor]) -> str:
        return f"{self.backend.sampler(list(tensors.values()), SAMPLED)():016x}"

    def _notes(self, hashes: Sequence[int], shapes: Shapes) -> dict[str, Any]:
        """What packed weights depend on."""
        content = hashlib.blake2b(json.dumps(list(hashes)).encode(), digest_size=16).hexdigest()
        return {
            "version": version("retouch"),
            "backend": self.backend.name,
            "packing": self.backend.packing,
            "weights": content,
            "names": [f"{slot.value.name} {slot.key.layout}" for slot in shapes],
            "shapes": [[*shape, slot.key.groups] for slot, shape in shapes.items()],
            "kinds": [_kind(slot) for slot in shapes],
        }

    def _file(self, notes: Mapping[str, Any]) -> Path:
        name = hashlib.blake2b(json.dumps(notes, sort_keys=True).encode(), digest_size=16).hexdigest()
        return self.folder / f"{name}{SUFFIX}"

    def _make_room(self, size: int) -> None:
        """Remove the files that were not used for longest until there is room for so many bytes."""
        files = sorted(packed_files(self.folder), key=lambda file: file.stat().st_mtime)
        taken = sum(file.stat().st_size for file in files)
        limit = min(LIMIT, taken + shutil.disk_usage(self.folder).free // 2)
        if size > limit:
            raise StoreError(f"{size / 1e6:.0f} MB are more than the {limit / 1e6:.0f} MB for them in {self.folder}")
        for file in files:
            if taken + size <= limit:
                return
            taken -= file.stat().st_size
            file.unlink(missing_ok=True)


def _kind(slot: Slot) -> str:
    """What the weights of a slot are packed as."""
    return "int8" if slot.kind is SlotKind.LEVELS else str(slot.value.dtype).removeprefix("torch.")


def packed_folder() -> Path:
    """Where the files are."""
    return cache_folder() / "packed"


def packed_files(folder: Path) -> list[Path]:
    """The files in a folder."""
    return list(folder.glob(f"*{SUFFIX}"))


def clear(folder: Path) -> int:
    """Remove all files of a folder, also those that were not finished; their bytes. Processes that use some go on."""
    freed = 0
    for file in (*packed_files(folder), *folder.glob(f".*{SUFFIX}-*")):
        freed += file.stat().st_size
        file.unlink(missing_ok=True)
    return freed
