"""How an edit of each kind of session is asked for: its options, what it reads, what is checked first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retouch.editing.diffusion.editor import Editor
from retouch.editing.gan.labels import LabelEditor, checked_labels
from retouch.editing.images import (
    ImageError,
    Pixels,
    Strengths,
    as_integers,
    as_mask,
    as_pixels,
    as_strengths,
    threshold_of,
)
from retouch.editing.sheets import coloured
from retouch.errors import OptionError
from retouch.plan.policy import Policy
from retouch.plan.region import Mask

MACHINE = frozenset({"device", "memory", "device_memory"})
RECORDED = ("steps", "seed", "guidance", "scheduler", "policy", "storage", "enlarger")
"""Options that a session keeps from its recording."""
CONDITIONS = frozenset({"prompt", "negative", "class_label", "control", "image_prompt", "scale"})
"""Options that say what a picture is conditioned on: of a recording, and others of an edit."""


@dataclass(frozen=True)
class Form:
    """What an edit of one kind takes.

    loading, opening, editing: the options of its editor, of a recording and of an edit, as the library names them.
    composing: of a canvas, for pictures that the model does not take whole.
    read: a source from a file, as pixels; shown: a source for people to look at.
    mask: reads one of a size from a file: what is edited, or how much.
    threshold: grey levels that count as alike under a policy. alike: whether a result looks like its source.
    check: OptionError for pictures (by their names) and options that an editor does not take, before it records.
    """

    loading: frozenset[str]
    opening: frozenset[str]
    editing: frozenset[str]
    composing: frozenset[str] = frozenset()
    read: Callable[[Path], Pixels] = as_pixels
    shown: Callable[[Pixels], Pixels] = lambda pixels: pixels
    threshold: Callable[[Policy], int] = threshold_of
    mask: Callable[[Path, tuple[int, int]], Mask | Strengths] = as_mask
    alike: bool = False
    check: Callable[[Any, dict[str, Pixels], dict[str, Any]], None] = lambda *_: None

    def refuse_others(self, given: dict[str, Any]) -> None:
        """OptionError for an option that this kind does not take."""
        for name in given:
            if name not in self.loading | self.opening | self.editing | self.composing:
                raise OptionError(f"--{name.replace('_', '-')} {GOES_WITH.get(name, _ONCE)}")


def grey_labels(path: Path) -> Pixels:
    """A map of labels as a grey picture. ImageError for labels that are not 0 to 255."""
    ids = as_integers(path)
    if ids.min() < 0 or ids.max() > 255:
        raise ImageError(f"{path} holds labels from {ids.min()} to {ids.max()}; labels are 0 to 255")
    return np.repeat(ids.astype(np.uint8)[..., None], 3, 2)


def check_labels(pictures: dict[str, Pixels], count: int) -> None:
    """OptionError for labels that are not below `count`, with the name of the picture."""
    for name, pixels in pictures.items():
        try:
            checked_labels(pixels, count)
        except ImageError as error:
            raise OptionError(f"{name}: {error}") from error


def _check_painter(editor: LabelEditor, pictures: dict[str, Pixels], given: dict[str, Any]) -> None:
    check_labels(pictures, editor.count)
    height, width, _ = next(iter(pictures.values())).shape
    try:
        editor.check_size((height, width))
    except ImageError as error:
        raise OptionError(str(error)) from error


def _check_diffusion(editor: Editor, pictures: dict[str, Pixels], given: dict[str, Any]) -> None:
    if "guidance" in given and not editor.model.reads_text:
        raise OptionError("--guidance does not go with a model that reads no words")
    if "area" in given and not editor.model.reads_text:
        raise OptionError("--area does not go with a model that reads no words")


GOES_WITH = {
    "area": "goes with models that read words",
    "instances": "goes with models that make pictures from labels",
    "threshold": "goes with pictures; labels are alike or they are not",
}
_ONCE = "does not go with a model that runs once, without noise or words"
_KEPT = MACHINE | {"policy", "storage"}

DIFFUSION = Form(
    loading=_KEPT | {"scheduler", "vae", "blend", "lora"},
    opening=CONDITIONS | {"guidance", "strength", "steps", "seed"},
    editing=CONDITIONS | {"strength", "max_error", "mask", "area", "threshold", "blend"},
    composing=frozenset({"enlarger"}),
    mask=as_strengths,
    alike=True,
    check=_check_diffusion,
)
UPSCALE = Form(_KEPT, frozenset(), frozenset({"mask", "threshold"}))
LABELS = Form(
    _KEPT,
    frozenset({"instances"}),
    frozenset({"instances", "mask"}),
    read=grey_labels,
    shown=lambda pixels: coloured(pixels[..., 0]),
    threshold=lambda policy: 0,
    check=_check_painter,
)
