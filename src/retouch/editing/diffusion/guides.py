"""What steers a denoiser beside words: control images, image prompts, and how strong each adapter is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from retouch.editing.images import ImageLike, Pixels, as_pixels
from retouch.plan.region import Mask

CONTROL, IMAGE_PROMPT = "control", "image-prompt"


@dataclass(frozen=True)
class Picture:
    """A picture uint8 `[H, W, 3]` as a value: equal where the pixels are."""

    size: tuple[int, int]
    content: bytes

    @staticmethod
    def of(pixels: Pixels) -> Picture:
        """From an array."""
        return Picture((pixels.shape[0], pixels.shape[1]), pixels.tobytes())

    @property
    def pixels(self) -> Pixels:
        """The array, which cannot be written."""
        return np.frombuffer(self.content, np.uint8).reshape(*self.size, 3)


@dataclass(frozen=True)
class Guides:
    """Control images of the picture's size, image prompts of any, and scales of adapters by name."""

    controls: tuple[Picture, ...] = ()
    prompts: tuple[Picture, ...] = ()
    scales: tuple[tuple[str, float], ...] = ()

    def tensors(self) -> dict[str, Tensor]:
        """The pictures as tensors of a version, by name."""
        named = ((CONTROL, self.controls), (IMAGE_PROMPT, self.prompts))
        return {
            f"{name}-{k}": torch.from_numpy(picture.pixels.copy())
            for name, pictures in named
            for k, picture in enumerate(pictures, 1)
        }

    def inside(self, mask: Mask, old: Guides) -> Guides:
        """With control images as in `old` outside of a mask `[H, W]`."""
        if self.controls == old.controls:
            return self
        pairs = zip(self.controls, old.controls, strict=True)
        controls = (Picture.of(np.where(mask[..., None], new.pixels, was.pixels)) for new, was in pairs)
        return replace(self, controls=tuple(controls))

    @staticmethod
    def of(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Guides:
        """Those of a version."""

        def pictures(name: str) -> tuple[Picture, ...]:
            found = sorted((key for key in tensors if key.startswith(f"{name}-")), key=lambda key: (len(key), key))
            return tuple(Picture.of(tensors[key].numpy()) for key in found)

        return Guides(pictures(CONTROL), pictures(IMAGE_PROMPT), tuple(facts.get("scales", {}).items()))


UNGUIDED = Guides()


def prompt_names(count: int) -> list[str]:
    """The names of so many image prompts as tensors of a version."""
    return [f"{IMAGE_PROMPT}-{k}" for k in range(1, count + 1)]


Images = ImageLike | Sequence[ImageLike | Picture]
Scales = Mapping[str, float]


class Steering(NamedTuple):
    """Guides as an edit asks for them; None: as the session has it."""

    control: Images | None = None
    image_prompt: Images | None = None
    scales: Scales | None = None

    def read(self) -> Steering:
        """With pictures that are files no longer. ImageError where one cannot be read."""
        return self._replace(control=as_pictures(self.control), image_prompt=as_pictures(self.image_prompt))

    def over(self, older: Steering) -> Steering:
        """What is given here, or else by an older one."""
        return older._replace(**{name: new for name, new in self._asdict().items() if new is not None})


AS_BEFORE = Steering()


def as_pictures(given: Images | None) -> tuple[Picture, ...] | None:
    """One picture or several as values. ImageError where one cannot be read."""
    if given is None:
        return None
    several: Sequence[Any] = given if isinstance(given, list | tuple) else [given]
    return tuple(each if isinstance(each, Picture) else Picture.of(as_pixels(each)) for each in several)
