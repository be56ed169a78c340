"""Packed weights in files of the cache folder: packed by the first process that needs them, mapped by all others.

A file belongs to what its weights were packed of and for: their contents, the version of this package, the backend and
its instruction set. For anything else there is another file. They are safetensors, and nothing in them is run.
"""

from __future__ import annotations

import hashlib
import json
import os
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
from retouch.runtime.blocks import Block, StoreError, read
from retouch.runtime.cache_files import CacheFiles

FILES = CacheFiles("packed", ".packed.safetensors", 32 << 30)

SAMPLED = 1024
"""One of this many 64-byte lines of each tensor is compared with its checksum when a file is mapped."""


Shapes = Mapping[Slot, tuple[int, ...]]
"""Of weights: outputs, taps and channels of a group."""


@dataclass(frozen=True)
class PackedFiles:
    """The files for a backend. OptionError for one whose packed weights are in no file."""

    backend: Backend

    def __post_init__(self) -> None:
        if not self.backend.packing:
            raise OptionError(
                f"map_weights: the {self.backend.name} backend does not keep packed weights in files; the cpu backend "
                "does"
            )

    def load(self, hashes: Sequence[int], shapes: Shapes) -> dict[Slot, Any] | None:
        """The handles of weights that were packed from tensors of these checksums; None where there is no such file.

        One that is damaged is removed.
        """
        slots, notes = list(shapes), self._notes(hashes, shapes)
        file = FILES.file(notes)
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
        try:
            FILES.write(FILES.file(notes), Block.of(tensors, {**notes, "sample": self._sample(tensors)}))
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


def _kind(slot: Slot) -> str:
    """What the weights of a slot are packed as."""
    return "int8" if slot.kind is SlotKind.LEVELS else str(slot.value.dtype).removeprefix("torch.")
