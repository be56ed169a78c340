"""Files of the user's cache folder that can be made again: written in one step, dropped when there are too many."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from typing import Any

from retouch.runtime.blocks import Block, StoreError, write
from retouch.runtime.rates import cache_folder


def nbytes_of(block: Block) -> int:
    """Bytes of the file of a block, but for the names of its tensors."""
    return block.nbytes + len(json.dumps(block.notes))


@dataclass(frozen=True)
class CacheFiles:
    """The files of one kind. They are safetensors, and nothing in them is run.

    name: of their folder. limit: bytes of all; those that were not used for longest are removed. Half of what is free
    on the disk, if less.
    """

    name: str
    suffix: str
    limit: int

    @property
    def folder(self) -> Path:
        return cache_folder() / self.name

    def file(self, key: Mapping[str, Any]) -> Path:
        """The one for what a file depends on."""
        name = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()
        return self.folder / f"{name}{self.suffix}"

    def files(self) -> list[Path]:
        """Those there are."""
        return list(self.folder.glob(f"*{self.suffix}"))

    def write(self, file: Path, block: Block) -> None:
        """Write a file, or another one in its place; StoreError or OSError where there is no room."""
        part = file.with_name(f".{file.name}-{os.getpid()}-{get_ident()}")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._make_room(nbytes_of(block))
        part.unlink(missing_ok=True)
        write(part, block)
        part.replace(file)

    def clear(self) -> int:
        """Remove all files, also those that were not finished; their bytes. Processes that use some go on."""
        freed = 0
        for file in (*self.files(), *self.folder.glob(f".*{self.suffix}-*")):
            freed += file.stat().st_size
            file.unlink(missing_ok=True)
        return freed

    def _make_room(self, size: int) -> None:
        files = sorted(self.files(), key=lambda file: file.stat().st_mtime)
        taken = sum(file.stat().st_size for file in files)
        limit = min(self.limit, taken + shutil.disk_usage(self.folder).free // 2)
        if size > limit:
            raise StoreError(f"{size / 1e6:.0f} MB are more than the {limit / 1e6:.0f} MB for them in {self.folder}")
        for file in files:
            if taken + size <= limit:
                return
            taken -= file.stat().st_size
            file.unlink(missing_ok=True)
