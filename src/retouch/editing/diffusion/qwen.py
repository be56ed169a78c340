"""Qwen-Image (Wu et al., arXiv 2508.02324)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retouch.editing.diffusion.model import Conditioning
from retouch.editing.diffusion.packed import PackedModel, packed, unpacked
from retouch.editing.diffusion.transformer import check_length
from retouch.kernels.devices import device_of

WORDS = 512
"""Tokens of texts that the transformer reads; shorter texts are padded, and masked there."""


class PackedQwen(nn.Module):
    """`QwenImageTransformer2DModel` on a latent `[B, n * C, h, w]`, of which 2x2 positions are a token; (prediction,).

    pictures: how many of C channels there are, noised latent first, each a grid of tokens in one sequence.
    """

    def __init__(self, transformer: nn.Module, pictures: int = 1) -> None:
        super().__init__()
        self.transformer, self.pictures = transformer, pictures

    def forward(self, sample: Tensor, **others: Tensor) -> tuple[Tensor]:
        """The prediction; `others` are the transformer's: time, texts and their mask."""
        height, width = sample.shape[2:]
        parts = [packed(part) for part in sample.chunk(self.pictures, 1)]
        found = self.transformer(
            hidden_states=torch.cat(parts, 1) if parts[1:] else parts[0],
            img_shapes=[[(1, height // 2, width // 2)] * self.pictures] * len(sample),
            return_dict=False,
            **others,
        )[0]
        return (unpacked(found[:, : parts[0].shape[1]], height, width),)


class QwenImageModel(PackedModel):
    """Qwen-Image, with guidance that keeps the length of a prediction."""

    @staticmethod
    def on_latents(pipe: Any) -> nn.Module:
        """The transformer, on a noised latent."""
        return PackedQwen(pipe.transformer)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return int(self.pipe.transformer.out_channels)

    def inputs(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Latents, time from 0 to 1 and texts; guidance runs a batch of two, without and with the texts."""
        batch = torch.cat([x, x]) if conditioning.guided else x
        times = (time.to(self.dtype) / 1000).expand(len(batch)).contiguous()
        return {"sample": batch.to(self.dtype), "timestep": times, **dict(conditioning.inputs)}

    def output(self, result: Any, conditioning: Conditioning) -> Tensor:
        """float32 prediction `[1, C, h, w]`; a guided one with the length, token by token, of that of the texts."""
        found = super().output(result, conditioning)
        if not conditioning.guided:
            return found
        guided, given = packed(found), packed(result[0][1:].float())
        return unpacked(
            guided * (given.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)), *found.shape[2:]
        )

    def read(self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]) -> Conditioning:
        """With the embeddings of a prompt ("" when there is none) and of what to avoid."""
        texts = Conditioning(prompt or "", negative or "", guidance)
        return replace(texts, inputs=tuple(self.embeddings(texts).items()))

    def encoded(self, texts: Conditioning) -> dict[str, Tensor]:
        """Tokens of the language model and which of them are words, as many for every text."""
        pipe = self.pipe
        longest = min(WORDS, pipe.tokenizer_max_length)
        check_length(pipe.tokenizer, longest, texts, pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx)
        device = device_of(pipe.text_encoder)
        read = [texts.negative, texts.prompt] if texts.guided else [texts.prompt]
        found = [pipe.encode_prompt(text, device=device, max_sequence_length=longest)[0] for text in read]
        words = [torch.ones(1, tokens.shape[1], dtype=torch.bool, device=device) for tokens in found]
        return {
            "encoder_hidden_states": torch.cat([F.pad(t, (0, 0, 0, longest - t.shape[1])) for t in found]),
            "encoder_hidden_states_mask": torch.cat([F.pad(m, (0, longest - m.shape[1])) for m in words]),
        }
