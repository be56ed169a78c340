"""A canvas in files: the whole picture of its first version, of every other one what it changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retouch.editing.canvas.files import Levels
from retouch.editing.canvas.picture import Patch, Picture
from retouch.editing.canvas.resample import Scaling, Size, scaled
from retouch.editing.canvas.rows import Rows
from retouch.editing.canvas.view import View
from retouch.editing.fields import Check, Fields, listed, maybe, number, optional, positive, record, text, whole
from retouch.editing.images import Box, Pixels

LONGEST = 1024
"""Pixels of the longer side of what a saved version shows."""


def _pair(check: Check) -> Check:
    return lambda found: listed(check)(found) and len(found) == 2


SETTINGS: Fields = {
    "viewport": _pair(positive),
    "floor": number,
    "enlarger": text,
    "views": listed(
        record(
            {
                "number": whole,
                "box": _pair(_pair(lambda found: isinstance(found, int))),
                "inner": _pair(positive),
                "versions": listed(_pair(whole)),
                "bytes": whole,
            }
        )
    ),
}
FACTS: Fields = {
    "prompt": optional(text), "negative": optional(text), "class_label": optional(whole), "steps": whole,
    "refined": maybe(text), "seed": maybe(whole),
    "areas": maybe(listed(record({"prompt": text, "negative": optional(text)}))),
}  # fmt: skip


def of_picture(picture: Picture, old: Box | None = None) -> dict[str, Tensor]:
    """Its levels and metadata; of one that was expanded, the box of the old one in it."""
    corners = {} if old is None else {"box": _corners(old)}
    extra = {"icc": picture.icc, "exif": picture.exif}
    found = {name: torch.frombuffer(bytearray(raw), dtype=torch.uint8) for name, raw in extra.items() if raw}
    return {"levels": _tensor(picture.levels), **found, **corners}


def picture_of(tensors: Mapping[str, Tensor]) -> Picture:
    """The inverse of `of_picture`."""
    icc, exif = (tensors[name].numpy().tobytes() if name in tensors else None for name in ("icc", "exif"))
    return Picture(_levels(tensors["levels"]), icc, exif)


def of_patch(patch: Patch, picture: Picture) -> dict[str, Tensor]:
    """A patch that a picture holds, with the levels that it put in."""
    levels = picture.pixels[patch.box][patch.mask]
    return {"box": _corners(patch.box), "mask": torch.from_numpy(patch.mask), "levels": _tensor(levels)}


def patch_of(tensors: Mapping[str, Tensor]) -> Patch:
    """One that was saved, not yet put in."""
    return Patch(box_of(tensors), tensors["mask"].numpy().copy(), Rows.of(_levels(tensors["levels"])))


def box_of(tensors: Mapping[str, Tensor]) -> Box:
    """That of what was changed."""
    (top, bottom), (left, right) = tensors["box"].tolist()
    return slice(top, bottom), slice(left, right)


def _corners(box: Box) -> Tensor:
    return torch.tensor([[span.start, span.stop] for span in box])


def fits(tensors: Mapping[str, Tensor], first: bool) -> bool:
    """Whether tensors of a file are those of the first version, or of another one."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if "levels" not in tensors or tensors["levels"].dtype not in (torch.uint8, torch.int16):
        return False
    if not first and shapes.get("box") != (2, 2):
        return False
    if "mask" not in tensors:
        known = {"levels", "icc", "exif"} | ({"box"} if not first else set())
        return shapes.keys() <= known and shapes["levels"][2:] in ((3,), (4,))
    if first or shapes.keys() != {"box", "mask", "levels"} or tensors["mask"].dtype != torch.bool:
        return False
    sides = tensors["box"][:, 1] - tensors["box"][:, 0]
    return tuple(sides.tolist()) == shapes["mask"] and shapes["levels"] == (int(tensors["mask"].sum()), 3)


def view_of(saved: Mapping[str, Any], size: Size) -> View:
    """A view as `View.saved` tells of it."""
    (top, bottom), (left, right) = saved["box"]
    scaling = Scaling((slice(top, bottom), slice(left, right)), tuple(saved["inner"]), size)
    return View(saved["number"], scaling, dict(saved["versions"]), nbytes=saved["bytes"])


def glimpse(pixels: Pixels) -> Pixels:
    """A picture that is not larger than `LONGEST`."""
    longest = max(pixels.shape[:2])
    if longest <= LONGEST:
        return pixels
    height, width = (max(1, n * LONGEST // longest) for n in pixels.shape[:2])
    return scaled(pixels, (height, width))


def _tensor(levels: Levels) -> Tensor:
    """The bits of levels; the format of files knows no uint16."""
    found = np.ascontiguousarray(levels)
    return torch.from_numpy(found.view(np.int16) if found.dtype == np.uint16 else found)


def _levels(tensor: Tensor) -> Levels:
    found = tensor.numpy().copy()
    return found.view(np.uint16) if found.dtype == np.int16 else found
