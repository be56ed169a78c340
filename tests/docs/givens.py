"""What the pages take for granted: files, and objects that a block names with `<!-- snippet: with ... -->`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import pipelines
from networks import case
from pipelines import painted
from retouch.editing.images import save_png
from retouch.models import spade
from support import fill

EMOJI, SIDE = "builtin/emoji", 64
"""The built-in model of the pages, and the pixels of the small one that stands for it here."""


def small_emoji(folder: Path) -> Path:
    """A pipeline of the built-in model's kind in a folder, with random weights and few channels."""
    pipelines.pipeline("sd").save_pretrained(folder)
    return folder


def files(folder: Path) -> None:
    """Pictures, a mask, maps of labels and a checkpoint, by the names that the pages have for them."""
    photo = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    once = painted(photo, 20, 20)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[35:45, 30:45] = 255
    pictures = {"photo": photo, "painted": once, "one-painted": painted(once, 45, 10, 5, (0, 0, 255)), "mask": mask}
    pictures["left"] = np.where(np.arange(SIDE) < 20, np.uint8(255), np.zeros((SIDE, SIDE), np.uint8))
    large = np.random.default_rng(2).integers(0, 256, (11, 15, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    large_mask = np.zeros(large.shape[:2], np.uint8)
    large_mask[60:70, 90:105] = 255
    pictures |= {"large": large, "large-painted": painted(large, 30, 50), "large-mask": large_mask}
    small = photo[::2, ::2].copy()
    pictures |= {"small": small, "small-painted": painted(small)}
    labels = np.random.default_rng(1).integers(0, 5, (4, 8)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
    other = labels.copy()
    other[10:20, 30:40] = (other[10:20, 30:40] + 1) % 5
    pictures |= {"labels": labels, "labels-painted": other}
    things = np.arange(32).reshape(4, 8).repeat(16, 0).repeat(16, 1).astype(np.uint16)
    for name, picture in {**pictures, "instances": things}.items():
        if picture.ndim == 3:
            save_png(picture, folder / f"{name}.png")
        else:
            Image.fromarray(picture).save(folder / f"{name}.png")
    torch.save(fill(spade.spade(4, 6), 0).state_dict(), folder / "latest_net_G.pth")


def unet() -> dict[str, Any]:
    """A small U-Net of Stable Diffusion with its arguments, and those of an edit."""
    made = case("sd15-unet")
    x, t, context = (*made.args, *made.kwargs.values())
    mask = made.spot()
    return {"unet": made.module, "x": x, "t": t, "context": context, "mask": mask, "x_edited": made.edited(mask).image}


def pipe() -> dict[str, Any]:
    """A small pipeline with random weights, whose parts may be replaced."""
    return {"pipe": copy.copy(pipelines.pipeline("sd"))}


def vae() -> dict[str, Any]:
    """A small autoencoder for that pipeline."""
    return {"vae": pipelines.tiny_vae()}


def adapted(name: str) -> dict[str, Any]:
    """A small pipeline with adapters of random weights; the photograph as control image and image prompt."""
    return {"pipe": pipelines.adapted(name)}


def kontext() -> dict[str, Any]:
    """A small pipeline that reads the picture as further tokens."""
    return {"pipe": pipelines.pipeline("kontext")}


GIVENS: dict[str, Callable[[], dict[str, Any]]] = {
    "kontext": kontext,
    "unet": unet,
    "pipe": pipe,
    "vae": vae,
    **{name: partial(adapted, name) for name in ("lora", "control", "ip")},
}
