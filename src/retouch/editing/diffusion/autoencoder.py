"""The autoencoder of a latent model: pixels to latents and back, full-sized or small."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retouch.editing.diffusion.model import PipelineError, loading
from retouch.kernels.devices import HOST, device_of
from retouch.models import vae
from retouch.models.extras import diffusers

AUTOENCODERS = (
    "AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL", "AutoencoderDC", "AutoencoderKLFlux2",
    "AutoencoderKLQwenImage",
)  # fmt: skip
"""Classes of diffusers that are supported. The asymmetric decoder is run without its mask and picture; the last one is
for video, and encodes a picture as a clip of one frame.
"""


class Autoencoder:
    """Encoder and decoder of one of `AUTOENCODERS`, and what their latents are to a denoiser.

    factor: pixels for each position of a latent. channels: of a latent. dtype: of the weights.
    packed: positions of what the decoder reads for each of a latent, in height and in width.
    encoder: pixels [1, 3, H, W] in [-1, 1] to latents, of the KL ones mean and log-variance; decoder: the way back.
    """

    packed = 1

    def __init__(self, module: Any) -> None:
        kinds: tuple[type[Any], ...] = tuple(getattr(diffusers(), name) for name in AUTOENCODERS)
        if not isinstance(module, kinds):
            raise PipelineError(f"the autoencoder is a {type(module).__name__}, none of {', '.join(AUTOENCODERS)}")
        self.config = config = module.config
        named = ("encoder_block_out_channels", "down_block_out_channels", "block_out_channels", "dim_mult")
        levels = next(config[name] for name in named if config.get(name))
        self.factor = 2 ** (len(levels) - 1)
        self.channels = int(config.get("latent_channels") or config.z_dim)
        self.dtype: torch.dtype = module.dtype
        self.encoder, self.decoder = vae.encoder_of(module), vae.decoder_of(module)

    def latent(self, encoded: Tensor) -> Tensor:
        """The mean of what the encoder returned, float32, as the denoiser was trained on it."""
        shift, scale = self._moments(encoded)
        return (encoded[:, : self.channels].float() - shift) * scale

    def decoder_input(self, latent: Tensor) -> Tensor:
        """What the decoder reads of a latent."""
        shift, scale = self._moments(latent)
        return (latent / scale + shift).to(self.dtype)

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """What latents are moved by and then multiplied by, float32 `[1, 1 or C, 1, 1]`."""
        config = self.config
        means, deviations = (config.get(name) for name in ("latents_mean", "latents_std"))
        shift, deviation = (
            torch.tensor(numbers, dtype=torch.float32, device=like.device).reshape(1, -1, 1, 1)
            for numbers in (means or config.get("shift_factor") or 0.0, deviations or 1.0)
        )
        return shift, float(config.get("scaling_factor", 1.0)) / deviation


class PackedAutoencoder(Autoencoder):
    """`AutoencoderKLFlux2`: 2x2 positions are one of a latent, of which every channel is normalised."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.packed = int(self.config.patch_size[0])
        self.factor, self.channels = self.factor * self.packed, self.channels * self.packed**2
        norm = module.bn
        self._mean: Tensor = norm.running_mean.to(HOST, torch.float32)[None, :, None, None]
        self._deviation: Tensor = (norm.running_var.to(HOST, torch.float32) + norm.eps).sqrt()[None, :, None, None]

    def latent(self, encoded: Tensor) -> Tensor:
        """The mean of what the encoder returned, packed and normalised."""
        mean: Tensor = F.pixel_unshuffle(encoded[:, : self.config.latent_channels].float(), self.packed)
        return (mean - self._mean) / self._deviation

    def decoder_input(self, latent: Tensor) -> Tensor:
        """What the decoder reads of a latent."""
        return F.pixel_shuffle(latent * self._deviation + self._mean, self.packed).to(self.dtype)


def autoencoder_of(module: Any) -> Autoencoder:
    """What an autoencoder of diffusers is to a denoiser. PipelineError when it is none of `AUTOENCODERS`."""
    return (PackedAutoencoder if isinstance(module, diffusers().AutoencoderKLFlux2) else Autoencoder)(module)


def located(name: str | Path) -> str:
    """A folder as an absolute path, a name on the hub as it is."""
    path = Path(name).expanduser()
    return os.path.abspath(path) if path.exists() else str(name)


def loaded(name: str | Path, like: nn.Module) -> nn.Module:
    """An autoencoder in a local folder or on the hub, with the type of weights and the device of `like`.

    Weights are read from safetensors only. Raises PipelineError when there is none or it is not supported.
    """
    library = diffusers()
    with loading("autoencoder", name):
        kind = library.AutoencoderKL.load_config(str(name)).get("_class_name")
        if kind not in AUTOENCODERS:
            raise PipelineError(f"the autoencoder {str(name)!r} is a {kind}, none of {', '.join(AUTOENCODERS)}")
        dtype = next(like.parameters()).dtype
        found: nn.Module = getattr(library, kind).from_pretrained(str(name), dtype=dtype, use_safetensors=True)
    return found.to(device_of(like))
