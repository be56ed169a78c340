"""Transformers on maps that read texts by cross-attention: PixArt (Chen et al., arXiv 2310.00426, 2403.04692) and Sana
(Xie et al., arXiv 2410.10629; Sana-Sprint: Chen et al., arXiv 2503.09641).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from retouch.editing.diffusion.model import ADDED, Conditioning
from retouch.editing.diffusion.transformer import TransformerModel, check_length, default
from retouch.kernels.devices import device_of
from retouch.models.trigflow import TrigFlow
from retouch.plan.policy import Policy


class CrossedModel(TransformerModel):
    """A transformer that reads texts of one length, with a mask of their words."""

    spared = 0
    """Tokens that a prompt may not have of those that are read."""

    def __init__(self, pipe: Any, policy: Policy, backend: str, vae: nn.Module | None = None) -> None:
        super().__init__(pipe, policy, backend, vae)
        self.side = int(pipe.transformer.config.patch_size)

    @property
    def default_size(self) -> tuple[int, int]:
        """That of the transformer."""
        size = int(self.pipe.transformer.config.sample_size) * self.factor
        return size, size

    def encoded(self, texts: Conditioning) -> dict[str, Tensor]:
        """Tokens and which of them are words; where texts guide without and with them."""
        longest = min(default(self.pipe, "max_sequence_length"), self.pipe.tokenizer.model_max_length)
        check_length(self.pipe.tokenizer, longest - self.spared, texts)
        tokens, words = self.words(texts, self.options(longest))
        return {"encoder_hidden_states": tokens, "encoder_attention_mask": words}

    def options(self, longest: int) -> dict[str, Any]:
        """What the pipeline's `encode_prompt` is told beside texts, for so many tokens."""
        device, clean = device_of(self.pipe.text_encoder), default(self.pipe, "clean_caption")
        return {"device": device, "clean_caption": clean, "max_sequence_length": longest}

    def words(self, texts: Conditioning, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Tokens `[B, S, C]` of texts, and int64 `[B, S]`: 1 where there is a word."""
        tokens, words, negatives, avoided = self.pipe.encode_prompt(
            texts.prompt, texts.guided, negative_prompt=texts.negative, **options
        )
        return (torch.cat([negatives, tokens]), torch.cat([avoided, words])) if texts.guided else (tokens, words)


class PixArtModel(CrossedModel):
    """PixArt-Sigma and PixArt-Alpha; the latter may read the size of the picture."""

    def output(self, result: Any, conditioning: Conditioning) -> Tensor:
        """As of every model, of the mean; the network may predict a variance beside it."""
        return super().output(result, conditioning)[:, : self.channels]

    def read(self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]) -> Conditioning:
        """With the size of the picture where the network reads it."""
        found = super().read(prompt, negative, guidance, size)
        if not self.pipe.transformer.use_additional_conditions:
            return found
        height, width = size
        numbers = {"resolution": [height, width], "aspect_ratio": [height / width]}
        count = 2 if found.guided else 1
        added = {name: torch.tensor([row] * count, dtype=self.dtype) for name, row in numbers.items()}
        return replace(found, inputs=(*found.inputs, (ADDED, added)))


class SanaModel(CrossedModel):
    """Sana: prompts follow an instruction to its language model."""

    spared = 1

    @property
    def time_scale(self) -> float:
        """What the network's times are multiples of."""
        return float(self.pipe.transformer.config.timestep_scale)

    def inputs(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """As of every transformer, with scaled times."""
        return super().inputs(x, time * self.time_scale, conditioning)

    def options(self, longest: int) -> dict[str, Any]:
        """With the instruction."""
        name = "complex_human_instruction"
        return {**super().options(longest), name: default(self.pipe, name)}


class SanaSprintModel(SanaModel):
    """Sana-Sprint: predicts along an angle, with the scale of guidance as an input."""

    distilled = "guidance is in its network"
    time_scale = 1.0

    @staticmethod
    def on_latents(pipe: Any) -> nn.Module:
        """The transformer, along an angle."""
        return TrigFlow(pipe.transformer)

    def guidance_inputs(self, guidance: float) -> dict[str, Tensor]:
        """The scale, as the network was trained on it."""
        return {"guidance": torch.tensor([guidance * self.pipe.transformer.config.guidance_embeds_scale])}

    def words(self, texts: Conditioning, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Of the prompt."""
        tokens, words = self.pipe.encode_prompt(texts.prompt, **options)
        return tokens, words
