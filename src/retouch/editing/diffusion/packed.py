"""Transformers that read squares of 2x2 positions of a latent as tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from retouch.editing.diffusion.model import Conditioning
from retouch.editing.diffusion.transformer import TransformerModel
from retouch.editing.images import to_tensor
from retouch.ir.geometry import Grid
from retouch.ir.layout import Layout
from retouch.kernels.devices import HOST, device_of
from retouch.models.packed import packed


class PackedModel(TransformerModel):
    """A transformer of packed latents, which is compiled on latents."""

    @staticmethod
    @abstractmethod
    def on_latents(pipe: Any) -> nn.Module:
        """The transformer of a pipeline as a network on latents."""

    def inputs(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Latents, time from 0 to 1 and texts; guidance runs a batch of two, without and with the words."""
        batch = torch.cat([x, x]) if conditioning.guided else x
        times = (time.to(self.dtype) / 1000).expand(len(batch)).contiguous()
        return {"sample": batch.to(self.dtype), "timestep": times, **dict(conditioning.inputs)}

    def tokens(self, latent: Tensor) -> Tensor:
        """The tokens `[1, S, C]` of a latent `[1, C, h, w]`."""
        return packed(latent)

    @torch.no_grad()
    def references(self, pictures: Sequence[Image.Image], texts: Conditioning) -> dict[str, Any]:
        """Tokens of pictures that are read in the same sequence, and rows and columns of each; nothing of none."""
        if not pictures:
            return {}
        encoder = self.vae.encoder.eval()
        reads = [self.encoder_input(to_tensor(np.asarray(each))).to(device_of(encoder)) for each in pictures]
        found = [self.latent(encoder(read).to(HOST)) for read in reads]
        tokens = torch.cat([self.tokens(latent) for latent in found], 1).to(self.dtype)
        sizes = [[n // self.side for n in latent.shape[2:]] for latent in found]
        return {"references": tokens.expand(2 if texts.guided else 1, -1, -1).contiguous(), "sizes": sizes}

    def layouts(self, conditioning: Conditioning) -> dict[str, Layout]:
        """That of references."""
        sizes = dict(conditioning.inputs).get("sizes", ())
        grids = [Grid(height, width, reference=k) for k, (height, width) in enumerate(sizes, 1)]
        return {"references": Layout(("b", "hw", "c"), grids[0], tuple(grids[1:]))} if grids else {}

    def schedule(self, size: tuple[int, int], steps: int) -> dict[str, Any]:
        """Levels of noise in equal steps down to one of them."""
        levels = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).numpy()
        return {**super().schedule(size, steps), "sigmas": levels}
