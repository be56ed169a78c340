"""The networks of a diffusion model at one size, and how edits evaluate them along the schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from retouch.editing.calls import Told, untold
from retouch.editing.diffusion.areas import run_dense
from retouch.editing.diffusion.denoiser import Denoiser
from retouch.editing.diffusion.model import Conditioning, Model, Networks
from retouch.editing.diffusion.sampler import Sampler
from retouch.editing.images import Pixels, difference, to_tensor
from retouch.incremental import Incremental
from retouch.ir.geometry import Grid
from retouch.plan.areas import Areas
from retouch.plan.policy import Policy
from retouch.plan.region import Mask, Region, dilate, spread

Growth = Callable[[Region], Region]
"""How far around a region an edit computes."""


class Evaluations(Protocol):
    """How an edit evaluates a network: from snapshots, or densely."""

    def update(
        self,
        name: str,
        net: Incremental,
        region: Region,
        *args: Any,
        areas: Areas | None = None,
        told: Told = untold,
        **kwargs: Any,
    ) -> Any:
        """The result of the call `name`, computed anew inside `region`; `areas` read texts of their own, and `told` is
        given the result as soon as it is there.
        """


class Whole:
    """Every network run whole, for comparison."""

    def update(
        self,
        name: str,
        net: Incremental,
        region: Region,
        *args: Any,
        areas: Areas | None = None,
        told: Told = untold,
        **kwargs: Any,
    ) -> Any:
        """The module's own result."""
        result = run_dense(net, *args, areas=areas, **kwargs)
        told(result)
        return result


@dataclass(frozen=True)
class Process:
    """The networks of a model at one size (H, W) and the schedule that they are run along, from step `first`."""

    model: Model
    nets: Networks
    sampler: Sampler
    size: tuple[int, int]
    first: int

    @property
    def denoiser(self) -> Denoiser:
        """Predictions of the model's denoiser."""
        return Denoiser(self.model, self.sampler)

    @property
    def policy(self) -> Policy:
        """How an edit spreads."""
        return self.model.policy

    @property
    def border(self) -> int:
        """Pixels around a region in which an edit's result passes into the old image."""
        return 0 if self.policy.exact else self.policy.dilate

    @property
    def grid(self) -> Grid:
        """That of a latent."""
        _, _, height, width = self.model.latent_shape(self.size)
        return Grid(height, width)

    def latent_mask(self, region: Region) -> Tensor:
        """bool `[1, 1, h, w]`: the positions of a latent that an edit of this region may change."""
        return torch.tensor(spread(region, self.grid, self.policy))[None]

    def around(self, region: Region) -> Region:
        """What the denoiser computes for a region: the policy's margin more, which changes nothing of the picture."""
        return region.dilated(self.policy.margin * self.size[0] // self.grid.height)

    def whole(self, region: Region) -> Region:
        """A region for the decoder, grown to whole positions of a latent where it reads parts of these."""
        if self.model.packed == 1:
            return region
        return Region(dilate(region.mask, self.policy.dilate)).on(self.grid).on(region.grid)

    def core(self, mask: Mask) -> Tensor:
        """bool `[1, 1, h, w]`: the positions of a latent that a mask of pixels covers."""
        return torch.tensor(Region.from_mask(mask).on(self.grid).mask)[None]

    def to_latent(self, pixels: Pixels, call: Callable[..., Any]) -> Tensor:
        """The latent of an image; `call` runs the encoder, given its name, the network and what it reads."""
        read = self.model.encoder_input(to_tensor(pixels))
        return self.model.latent(call("encoder", self.nets.encoder, read) if self.nets.encoder else read)

    def encoded(self, pixels: Pixels, seen: Pixels, run: Evaluations, grow: Growth = lambda region: region) -> Tensor:
        """The latent of an image, from an encoder that has `seen` another one."""
        stale = grow(Region.from_mask(difference(pixels, seen, 0)))
        return self.to_latent(pixels, lambda name, net, *args: run.update(name, net, stale, *args))

    def to_pixels(self, latent: Tensor, call: Callable[..., Any]) -> Tensor:
        """Pixels of a latent; `call` runs the decoder."""
        read = self.model.decoder_input(latent)
        return self.model.pixels(call("decoder", self.nets.decoder, read) if self.nets.decoder else read)

    def steered(self, conditioning: Conditioning, call: Callable[..., Any]) -> Conditioning:
        """With what is made of its control images; `call` runs a network for one."""
        return self.model.steered(self.nets.controls, conditioning, call)

    def dense(self, areas: Areas | None = None, **inputs: Any) -> Any:
        """What the module of the denoiser returns."""
        return run_dense(self.nets.denoiser, areas=areas, **inputs)
