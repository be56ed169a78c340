"""Lowered programs in files of the cache folder: captured by the first process that needs them, read by all others.

A file belongs to what the module calls for its example inputs (`retouch.frontend.fingerprint`), to the versions of
PyTorch and of the code that lowers, and to what lowering is asked for. It holds data (`retouch.frontend.data`) and
tensors that are part of the graph, none of the module's own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from retouch.frontend.data import from_data, to_data
from retouch.frontend.fingerprint import Fingerprint, Unfollowed, fingerprint
from retouch.frontend.lowering import context
from retouch.frontend.signature import Signature
from retouch.ir.program import Program
from retouch.runtime.blocks import Block, StoreError, read
from retouch.runtime.cache_files import CacheFiles, nbytes_of

FILES = CacheFiles("programs", ".program.safetensors", 1 << 30)

LARGEST = 128 << 20
"""Bytes of a file."""

log = logging.getLogger("retouch")


@dataclass(frozen=True)
class Lowered:
    """A program, tensors that are constants of it beside parameters and buffers, how outputs are put together."""

    program: Program
    literals: dict[str, Tensor]
    out_spec: pytree.TreeSpec


def kept(
    module: nn.Module, signature: Signature, asked: Mapping[str, Any], device: torch.device, make: Callable[[], Lowered]
) -> Lowered:
    """What `make` gives, or gave before for such a module on a device and inputs, and for what was `asked` besides."""
    seen = _followed(module, signature, device)
    if seen is None:
        return make()
    key = {
        "version": version("retouch"),
        "code": _code(),
        "torch": torch.__version__,
        "calls": seen.digest,
        "layouts": {str(number): repr(layout) for number, layout in sorted(signature.layouts.items())},
        **asked,
    }
    found = _read(key, seen)
    if found is None:
        found = make()
        _write(key, seen, found)
    return found


def _followed(module: nn.Module, signature: Signature, device: torch.device) -> Fingerprint | None:
    """What the module calls; None where that does not say which program it becomes."""
    if module.training or not all(_is_own(rule) for rule in context.RULES.values()):
        return None
    try:
        return fingerprint(module, *signature.example, device)
    except Unfollowed as error:
        log.debug("%s is captured at every start: %s", type(module).__name__, error)
        return None


def _read(key: dict[str, Any], seen: Fingerprint) -> Lowered | None:
    """What a file holds; None where there is none. One that is damaged is removed."""
    file = FILES.file(key)
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 20} MB")
        block = read(file)
        notes = block.notes
        if notes["key"] != key or notes["content"] != _content(notes, block.tensors):
            raise ValueError("its content has changed")
        literals = {name: seen.tensors[source] for name, source in notes["live"].items()}
        literals |= {name: block.tensors[name].to(device) for name, device in notes["literals"].items()}
        found: Lowered | None = Lowered(from_data(notes["objects"], block.tensors), literals, seen.out_spec)
    except (StoreError, ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError) as error:
        log.warning("the program in %s cannot be used and is made again: %s", file, error)
        found = None
    with suppress(OSError):  # in a folder that is another's to write
        file.unlink(missing_ok=True) if found is None else os.utime(file)
    return found


def _write(key: dict[str, Any], seen: Fingerprint, made: Lowered) -> None:
    names = {id(tensor): name for name, tensor in seen.tensors.items()}
    live = {name: names[id(tensor)] for name, tensor in made.literals.items() if id(tensor) in names}
    own = {name: tensor for name, tensor in made.literals.items() if name not in live}
    try:
        if made.out_spec != seen.out_spec:
            raise ValueError("outputs are put together in another way when it is captured")
        objects, arrays = to_data(made.program)
        tensors = {**arrays, **{name: tensor.detach().cpu().contiguous() for name, tensor in own.items()}}
        notes = {"key": key, "live": live, "literals": {n: str(t.device) for n, t in own.items()}, "objects": objects}
        block = Block.of(tensors, {**notes, "content": _content(notes, tensors)})
        if nbytes_of(block) < LARGEST:
            FILES.write(FILES.file(key), block)
    except (StoreError, ValueError, KeyError, OSError) as error:
        log.info("the program is captured again at the next start: %s", error)


def _content(notes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """A checksum of all that a file says beside its key."""
    said = json.dumps([notes[name] for name in ("live", "literals", "objects")])
    digest = hashlib.blake2b(said.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _is_own(rule: Callable[..., Any]) -> bool:
    """Whether a rule is one of this package, whose code is part of the key."""
    return str(getattr(rule, "__module__", None)).startswith("retouch.")


@cache
def _code() -> str:
    """A checksum of the code that makes programs."""
    root = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=16)
    for room in ("ir", "ops", "frontend", "passes"):
        for file in sorted((root / room).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()
