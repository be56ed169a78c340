"""Pixels that are taken into a session as they are.

Every step was recorded on the picture with a noise of its own. So another picture moves what the step reads by the
difference of their latents, scaled as the step scales pictures. The encoder is updated at once. The steps and the
decoder follow when an edit next needs them, in one update with its own region: until then they are `behind`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from retouch.editing.diffusion.contents import Redrawn, behind, masked
from retouch.editing.diffusion.guides import Guides
from retouch.editing.diffusion.process import Evaluations, Process
from retouch.editing.images import Pixels
from retouch.ir.geometry import Grid
from retouch.plan.region import Mask, Region


def adopted(
    process: Process,
    original: Mapping[str, Tensor],
    current: Mapping[str, Tensor],
    pixels: Pixels,
    mask: Mask,
    run: Evaluations,
) -> Redrawn:
    """The version `current` with the picture `pixels` `[H, W, 3]`, which differs from its own in `mask` `[H, W]` alone.

    original: tensors of the session's first version. Positions that an edit of the mask may change become those of a
    recording of the picture; under `exact` all, as each depends on all of the picture.
    """
    seen, old = current["seen"].numpy(), current["latents"]
    latents, read = moved(process, original["latents"], process.encoded(pixels, seen, run)), mask
    if process.policy.exact:
        cells = Region.from_mask((latents != old).any(1).any(0))
        read = mask | masked(current, process) | cells.on(Grid(*process.size)).mask[0]
    else:
        latents = torch.where(process.latent_mask(Region.from_mask(mask)), latents, old)
    late = behind(current, process.size)
    late[read] = len(process.sampler) + 1
    return Redrawn(latents, pixels, pixels, late, guides=Guides.of(current, {}))


def moved(process: Process, latents: Tensor, clean: Tensor) -> Tensor:
    """Latents of all positions `[n + 1, C, h, w]` with the same noise and another clean one `[1, C, h, w]`."""
    scales = torch.tensor(process.sampler.scale[process.first : -1])[:, None, None, None]
    return torch.cat([latents[:-1] + scales * (clean - latents[-1:]), clean])
