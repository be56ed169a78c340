"""Weights once: a module's own parameters as a file, read where something asks for them, beside the packed ones."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from retouch.errors import FallbackWarning

SMALL = 1 << 16
"""Bytes of tensors that stay where they are."""


def spare_memory(module: nn.Module, folder: Path) -> int:
    """Move a module's parameters and buffers from memory to mapped files without a name; the bytes moved.

    They are what they were for whoever reads or writes them: the system reads pages from the files when they are asked
    for and may drop them again. Those on a device, and those that are mapped from a file already, stay. FallbackWarning
    when the folder has no room for all of them, or the system cannot do it.
    """
    shared: dict[int, list[Tensor]] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        storage = tensor.untyped_storage()
        if tensor.device.type == "cpu" and storage.filename is None and storage.nbytes() >= SMALL:
            shared.setdefault(storage.data_ptr(), []).append(tensor)
    try:
        return sum(_moved(tensors, folder) for tensors in shared.values())
    except OSError as error:
        warnings.warn(
            f"weights stay in memory beside the packed ones, as {folder} cannot take files with them: "
            f"{error.strerror or error}; choose another folder (TMPDIR), or leave out keep_module=False",
            FallbackWarning,
            stacklevel=2,
        )
        return 0


def _moved(tensors: list[Tensor], folder: Path) -> int:
    """Put tensors of one storage into a file; its bytes. Each storage has its own, as files of weights want it."""
    storage = tensors[0].untyped_storage()
    raw: Any = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix="retouch-", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(memoryview(raw))
        mapping: Any = torch.UntypedStorage.from_file(name, True, raw.nbytes)
    finally:
        os.unlink(name)
    for tensor in tensors:
        place = tensor.storage_offset(), tensor.shape, tensor.stride()
        tensor.data = torch.empty(0, dtype=tensor.dtype).set_(mapping, *place)
    return int(raw.nbytes)
