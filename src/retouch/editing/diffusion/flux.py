"""FLUX.1: schnell and dev, Fill, Kontext (Labs et al., arXiv 2506.15742)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from retouch.editing.diffusion.model import Conditioning
from retouch.editing.diffusion.packed import PackedModel
from retouch.editing.diffusion.transformer import check_length
from retouch.kernels.devices import device_of
from retouch.models.packed import PackedFlux

WORDS = 512
"""Tokens of T5 that are read at most."""


class FluxModel(PackedModel):
    """FLUX.1 schnell and dev: guidance is none, or an input of the network."""

    distilled = "guidance is in its network"

    @staticmethod
    def on_latents(pipe: Any) -> nn.Module:
        """The transformer, on a noised latent."""
        return PackedFlux(pipe.transformer)

    @property
    def channels(self) -> int:
        """Channels of a latent; the transformer predicts four positions at once."""
        return int(self.pipe.transformer.out_channels) // self.side**2

    def guidance_inputs(self, guidance: float) -> dict[str, Tensor]:
        """The scale as it is, where the network reads it."""
        embeds = self.pipe.transformer.config.guidance_embeds
        return {"guidance": torch.tensor([guidance])} if embeds else {}

    def encoded(self, texts: Conditioning) -> dict[str, Tensor]:
        """Tokens of T5, the vector of CLIP."""
        longest = min(WORDS, self.pipe.tokenizer_2.model_max_length)
        check_length(self.pipe.tokenizer_2, longest, texts)
        tokens, vector, _ = self.pipe.encode_prompt(
            prompt=texts.prompt, prompt_2=None, device=device_of(self.pipe.text_encoder), max_sequence_length=longest
        )
        return {"encoder_hidden_states": tokens, "pooled_projections": vector}


class FluxFillModel(FluxModel):
    """FLUX.1 Fill: reads the latent of what is not repainted, and which pixels are."""

    inpaints = True

    def extended(self, x: Tensor, mask: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """The latent, that of what is visible, and the mask: a channel for each pixel of a position, all alike."""
        mask = torch.zeros_like(x[:, :1]) if mask is None else mask
        visible = torch.zeros_like(x) if visible is None else visible
        return torch.cat([x, visible, mask.expand(-1, self.factor**2, -1, -1)], 1)


class FluxKontextModel(FluxModel):
    """FLUX.1 Kontext: reads the picture as further tokens of the sequence."""

    refers = True

    @staticmethod
    def on_latents(pipe: Any) -> nn.Module:
        """The transformer, on a noised latent and that of the picture."""
        return PackedFlux(pipe.transformer, pictures=2)
