"""The autoencoder of a latent model: pixels to latents and back, full-sized or small."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from retouch.editing.diffusion.model import PipelineError, loading
from retouch.kernels.devices import device_of
from retouch.models.chain import Chain
from retouch.models.extras import diffusers

AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL")
"""Classes of diffusers that are supported; the decoder of the last one is run without its mask and picture."""


class Autoencoder:
    """Encoder and decoder of one of `AUTOENCODERS`, and what their latents are to a denoiser.

    factor: pixels for each position of a latent. channels: of a latent. dtype: of the weights.
    encoder: pixels [1, 3, H, W] in [-1, 1] to latents, of the KL ones mean and log-variance; decoder: the way back.
    """

    def __init__(self, module: Any) -> None:
        kinds: tuple[type[Any], ...] = tuple(getattr(diffusers(), name) for name in AUTOENCODERS)
        if not isinstance(module, kinds):
            raise PipelineError(f"the autoencoder is a {type(module).__name__}, none of {', '.join(AUTOENCODERS)}")
        self.config = config = module.config
        levels = config.get("encoder_block_out_channels") or config.get("down_block_out_channels")
        self.factor = 2 ** (len(levels or config.block_out_channels) - 1)
        self.channels = int(config.latent_channels)
        self.dtype: torch.dtype = module.dtype
        before, after = (getattr(module, name, None) for name in ("post_quant_conv", "quant_conv"))
        self.encoder = Chain(module.encoder, nn.Identity() if after is None else after)
        self.decoder = Chain(nn.Identity() if before is None else before, module.decoder)

    def latent(self, encoded: Tensor) -> Tensor:
        """The mean of what the encoder returned, float32, as the denoiser was trained on it."""
        mean = encoded[:, : self.channels].float()
        return (mean - self._shift) * float(self.config.scaling_factor)

    def decoder_input(self, latent: Tensor) -> Tensor:
        """What the decoder reads of a latent."""
        return (latent / float(self.config.scaling_factor) + self._shift).to(self.dtype)

    @property
    def _shift(self) -> float:
        return float(self.config.get("shift_factor") or 0.0)


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
