"""Chroma: FLUX.1 with modulation from one small network, a second run as guidance, and padded texts of T5."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from retouch.editing.diffusion.model import Conditioning
from retouch.editing.diffusion.packed import PackedModel
from retouch.editing.diffusion.transformer import check_length, default
from retouch.kernels.devices import device_of
from retouch.models.packed import PackedChroma


class ChromaModel(PackedModel):
    """Chroma, in its three pipelines."""

    @staticmethod
    def on_latents(pipe: Any) -> nn.Module:
        """The transformer, on a noised latent."""
        return PackedChroma(pipe.transformer)

    @property
    def channels(self) -> int:
        """Channels of a latent; the transformer predicts four positions at once."""
        return int(self.pipe.transformer.out_channels) // self.side**2

    def encoded(self, texts: Conditioning) -> dict[str, Tensor]:
        """Tokens of T5 and which of them are words, with one more, as numbers; where texts guide without and with."""
        pipe = self.pipe
        longest = min(default(pipe, "max_sequence_length"), pipe.tokenizer.model_max_length)
        check_length(pipe.tokenizer, longest, texts)
        tokens, _, words, negatives, _, avoided = pipe.encode_prompt(
            texts.prompt,
            texts.negative,
            device_of(pipe.text_encoder),
            do_classifier_free_guidance=texts.guided,
            max_sequence_length=longest,
        )
        if texts.guided:
            tokens, words = torch.cat([negatives, tokens]), torch.cat([avoided, words])
        return {"encoder_hidden_states": tokens, "words": words}
