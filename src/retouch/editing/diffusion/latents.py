"""What models in the latents of an autoencoder have in common, whatever the network that denoises these."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from retouch.editing.diffusion.autoencoder import autoencoder_of
from retouch.editing.diffusion.model import Conditioning, Model, Networks, PipelineError
from retouch.plan.policy import Policy


class LatentModel(Model):
    """A denoiser of latents, with the pipeline's autoencoder or `vae` in its place."""

    reads_text = True

    def __init__(self, pipe: Any, policy: Policy, backend: str, vae: nn.Module | None = None) -> None:
        super().__init__(pipe, policy, backend)
        self.vae = autoencoder_of(pipe.vae if vae is None else vae)
        self.factor, self.packed = self.vae.factor, self.vae.packed
        found = self.vae.channels, self.factor
        expected = self.channels, getattr(pipe, "vae_scale_factor", self.factor // self.packed) * self.packed
        if found != expected:
            raise PipelineError(
                "the autoencoder does not go with the denoiser: its latents have {} channels and a position for {} "
                "pixels, not {} and {}".format(*found, *expected)
            )

    def compiled(self, size: tuple[int, int], conditioning: Conditioning) -> Networks:
        """The denoiser, the encoder and the decoder, each with its convolution of one position."""
        pixels = torch.zeros(1, 3, *size, dtype=self.vae.dtype)
        read = self.decoder_input(torch.zeros(self.latent_shape(size)))
        encoder, decoder = self.compile(self.vae.encoder, pixels), self.compile(self.vae.decoder, read)
        return Networks(self.compile_denoiser(size, conditioning), encoder, decoder)

    @property
    def modules(self) -> list[nn.Module]:
        """The denoiser, the encoder and the decoder."""
        return [*super().modules, self.vae.encoder, self.vae.decoder]

    def encoder_input(self, pixels: Tensor) -> Tensor:
        """Pixels in the autoencoder's type."""
        return pixels.to(self.vae.dtype)

    def latent(self, encoded: Tensor) -> Tensor:
        """The mean of the encoder's distribution, scaled."""
        return self.vae.latent(encoded)

    def decoder_input(self, latent: Tensor) -> Tensor:
        """The unscaled latent."""
        return self.vae.decoder_input(latent)

    def pixels(self, decoded: Tensor) -> Tensor:
        """float32 pixels."""
        return decoded.float()
