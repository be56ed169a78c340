"""Digests of what recordings, updates and session edits compute, to hold two commits against each other.

    python benchmarks/digests.py old.json                       # in a checkout of the one
    python benchmarks/digests.py new.json --against old.json    # in one of the other: says what differs

All benchmark networks at their tiny size, in float32 and bfloat16, under every preset, with the CPU kernels; then
edits, undo and further edits in sessions of the built-in models. Digests depend on the instruction set
(`RETOUCH_ISA`), so run both on one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import retouch
from retouch import Editor, Policy, Region, Upscaler, models

POLICIES = ("paper", "balanced", "fast", "exact")
DTYPES = (torch.float32, torch.bfloat16)
CROSSOVER = 0.7
"""What runs sparse is not left to a cost model, which measures the machine."""

EDITS = ((0.3, 0.55, 0.1), (0.1, 0.1, 0.25), (0.5, 0.2, 0.05), (0.0, 0.0, 1.0))
"""Top, left and side of the squares, as shares of the height; the last one is the whole picture."""


def digest(tree: Any) -> str:
    """A hash of the bytes of all tensors and arrays in a tree, in order."""
    found = hashlib.blake2b(digest_size=12)
    for leaf in pytree.tree_leaves(tree):
        tensor = torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf
        if isinstance(tensor, Tensor):
            found.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def square(size: tuple[int, int], top: float, left: float, side: float) -> Tensor:
    """A mask bool [H, W] with a square."""
    mask = torch.zeros(size, dtype=torch.bool)
    y, x, n = int(top * size[0]), int(left * size[0]), max(1, int(side * size[0]))
    mask[y : y + n, x : x + n] = True
    return mask


def network(name: str, dtype: torch.dtype) -> Iterator[tuple[str, str]]:
    """Digests of a recording and of updates on top of each other, then of undone ones."""
    entry = models.get(name)
    module, inputs = entry.build(tiny=True, dtype=dtype), entry.inputs(tiny=True, dtype=dtype)
    for policy in POLICIES:
        fixed = replace(Policy.named(policy), crossover=CROSSOVER)
        net = retouch.compile(module, inputs.args, inputs.kwargs, policy=fixed, backend="cpu")
        y, recording = net.record(*inputs.args, **inputs.kwargs)
        yield f"{policy}/record", digest(y)
        edited = inputs
        for number, place in enumerate(EDITS):
            mask = square(entry.image_size(tiny=True), *place)
            edited = entry.edited(edited, mask, seed=number + 1)
            result = net.update(recording, Region.from_mask(mask), *edited.args, **edited.kwargs)
            held = [*recording.buffers.values(), *recording.states.values()]
            yield f"{policy}/update {number}", digest([result, held])
        for _ in EDITS:
            recording.undo()
        yield f"{policy}/undone", digest([*recording.buffers.values(), *recording.states.values()])


def painted(pixels: np.ndarray[Any, Any], number: int) -> np.ndarray[Any, Any]:
    """The picture with a rectangle of one colour."""
    copy, side = pixels.copy(), pixels.shape[0]
    y, x = (side * (1 + number)) // 6, (side * (3 - number)) // 6
    copy[y : y + side // 8, x : x + side // 6] = (200 - 60 * number, 40, 50 + 70 * number)
    return copy


def sessions() -> Iterator[tuple[str, str]]:
    """Digests of pictures in sessions of the built-in models."""
    photo = (np.indices((64, 64, 3)).sum(0) * 3 % 251).astype(np.uint8)
    small = Upscaler.from_pretrained("builtin/realesr-animevideov3-x4", device="cpu").open(photo)
    yield from edits("upscaler", small, photo)
    for policy in ("paper", "balanced"):
        fixed = replace(Policy.named(policy), crossover=CROSSOVER)
        editor = Editor.from_pretrained("builtin/emoji", device="cpu", policy=fixed, blend="fade")
        made = editor.generate("red heart", steps=6, guidance=3.0, seed=7)
        yield from edits(f"generated, {policy}", made, np.asarray(made.image), prompt="red heart")
        big = np.asarray(made.image)
        opened = editor.open(big, prompt="red heart", steps=6, strength=0.7)
        yield from edits(f"opened, {policy}", opened, big)


def edits(title: str, session: Any, pixels: np.ndarray[Any, Any], **options: Any) -> Iterator[tuple[str, str]]:
    """Two edits, one undone, another one."""
    yield f"{title}/opened", digest(np.asarray(session.image))
    for number in range(3):
        if number == 2:
            session.undo()
            yield f"{title}/undone", digest(np.asarray(session.image))
        pixels = painted(pixels, number)
        yield f"{title}/edit {number}", digest(np.asarray(session.edit(pixels, **options).image))


def collected() -> dict[str, str]:
    """All digests by name."""
    found = {}
    for name in models.names():
        for dtype in DTYPES:
            print(name, dtype, file=sys.stderr, flush=True)
            found.update({f"{name}/{dtype}/{key}": value for key, value in network(name, dtype)})
    found.update(sessions())
    return found


def main() -> int:
    """Write digests; with `--against`, exit with 1 when some differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--against", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    found = collected()
    arguments.file.write_text(json.dumps(found, indent=1))
    if not arguments.against:
        return 0
    before = json.loads(arguments.against.read_text())
    different = [key for key in before if before[key] != found.get(key)]
    print(f"{len(before) - len(different)} of {len(before)} equal", *different, sep="\n  ")
    return 1 if different or set(found) != set(before) else 0


if __name__ == "__main__":
    sys.exit(main())
