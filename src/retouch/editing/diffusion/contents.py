"""What a version of a diffusion session holds beside its recordings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from retouch.editing.diffusion.estimate import StepCheck
from retouch.editing.diffusion.guides import UNGUIDED, Guides, prompt_names
from retouch.editing.diffusion.process import Process
from retouch.editing.images import Pixels, difference
from retouch.plan.region import Mask

Behind = npt.NDArray[np.int16]
"""[H, W]: recordings of steps below it have not read the latents or control images there; the decoder's counts as that
of one step more than there are. 0 where all have.
"""


@dataclass(frozen=True)
class Redrawn:
    """What came of a change: latents `[n + 1, C, h, w]` at every position, decoded pixels, encoder's image, which
    recordings are behind, one of the steps for the estimate of the error (None: nothing to check), and guides.
    """

    latents: Tensor
    pixels: Pixels
    seen: Pixels
    behind: Behind | None = None
    check: StepCheck | None = None
    guides: Guides = UNGUIDED

    def tensors(self) -> dict[str, Tensor]:
        """What a version keeps."""
        pictures: dict[str, npt.NDArray[Any]] = {"image": self.pixels, "seen": np.ascontiguousarray(self.seen)}
        if self.behind is not None and self.behind.any():
            pictures["behind"] = self.behind
        made = {"latents": self.latents.contiguous(), **{k: torch.from_numpy(v) for k, v in pictures.items()}}
        return made | self.guides.tensors()


def behind(tensors: Mapping[str, Tensor], size: tuple[int, int]) -> Behind:
    """Which recordings of a version are behind, a new array."""
    found = tensors.get("behind")
    return np.zeros(size, np.int16) if found is None else found.numpy().copy()


def masked(tensors: Mapping[str, Tensor], process: Process) -> Mask:
    """Where a denoiser has read the mask or the picture of the edit before, which an exact one takes back, `[H, W]`."""
    if not (process.policy.exact and (process.model.inpaints or process.model.refers)):
        return np.zeros(process.size, np.bool_)
    return difference(tensors["seen"].numpy(), tensors["image"].numpy(), 0)


def is_complete(tensors: Mapping[str, Tensor], process: Process) -> bool:
    """True for the tensors of a version, by their shapes and types."""
    height, width = process.size
    count = len(process.sampler) - process.first + 1
    expected = {
        "image": ((height, width, 3), torch.uint8),
        "seen": ((height, width, 3), torch.uint8),
        "latents": ((count, *process.model.latent_shape(process.size)[1:]), torch.float32),
    }
    if "behind" in tensors:
        expected["behind"] = ((height, width), torch.int16)
    expected |= dict.fromkeys(process.nets.controls, ((height, width, 3), torch.uint8))
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    prompts = {name: found.pop(name) for name in prompt_names(process.model.adapters.prompts) if name in found}
    return found == expected and all(len(s) == 3 and (s[2], t) == (3, torch.uint8) for s, t in prompts.values())
