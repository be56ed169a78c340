"""What enlarges a model's result where the canvas has more pixels than the model saw."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from retouch.editing.canvas.resample import Enlarger
from retouch.editing.gan.upscaler import PRETRAINED, Upscaler, weight_file
from retouch.editing.images import Pixels
from retouch.errors import OptionError
from retouch.models.extras import ExtraError

AUTO, LANCZOS = "auto", "lanczos"
BEST = "builtin/realesrgan-x4"
"""For photographs; `auto` takes it where its weights are there."""


@dataclass(frozen=True)
class SuperResolver:
    """Enlarges four times with a built-in super-resolver by its name, loaded when it is first used."""

    name: str
    device: torch.device

    @cached_property
    def upscaler(self) -> Upscaler:
        """The network with its weights."""
        return Upscaler.from_pretrained(self.name, device=self.device)

    def __call__(self, pixels: Pixels) -> Pixels:
        """`[h, w, 3]` to `[4h, 4w, 3]`."""
        return self.upscaler.enlarge(pixels)


def enlarger_of(choice: str, device: torch.device) -> Enlarger | None:
    """What a choice names; None: Lanczos alone.

    choice: "lanczos"; a built-in super-resolver, `builtin/realesrgan-x4` for example; or "auto": that one on an
    accelerator where the package with its weights is there, else Lanczos (on a CPU it takes longer than most edits).
    `name_of` says which it became.

    Raises OptionError for another name, ExtraError for a super-resolver that is asked for by its name and not there.
    """
    if choice == LANCZOS or (choice == AUTO and device.type == "cpu"):
        return None
    if choice not in (AUTO, *PRETRAINED):
        raise OptionError(f"unknown enlarger {choice!r}; choose from {AUTO}, {LANCZOS}, {', '.join(PRETRAINED)}")
    name = BEST if choice == AUTO else choice
    try:
        weight_file(PRETRAINED[name].file)
    except ExtraError:
        if choice == AUTO:
            return None
        raise
    return SuperResolver(name, device)


def name_of(enlarger: Enlarger | None) -> str:
    """How versions and reports name what enlarged a result."""
    return LANCZOS if enlarger is None else str(getattr(enlarger, "name", "custom"))
