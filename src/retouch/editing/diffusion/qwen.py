"""Qwen-Image and Qwen-Image-Edit (Wu et al., arXiv 2508.02324)."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from retouch.editing.diffusion.adapters import Adapters
from retouch.editing.diffusion.guides import AS_BEFORE, Guides, Steering
from retouch.editing.diffusion.model import Conditioning, PipelineError
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
        most = min(WORDS, pipe.tokenizer_max_length)
        check_length(pipe.tokenizer, most, texts, pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx)
        device, longest = device_of(pipe.text_encoder), most + self.picture_tokens
        read, seen = [texts.negative, texts.prompt] if texts.guided else [texts.prompt], self.seen(texts)
        found = [pipe.encode_prompt(prompt=text, device=device, **seen)[0] for text in read]
        if max(tokens.shape[1] for tokens in found) > longest:
            raise PipelineError(f"prompt and picture have more than {longest} tokens; crop the picture, it is too long")
        words = [torch.ones(1, tokens.shape[1], dtype=torch.bool, device=device) for tokens in found]
        return {
            "encoder_hidden_states": torch.cat([F.pad(t, (0, 0, 0, longest - t.shape[1])) for t in found]),
            "encoder_hidden_states_mask": torch.cat([F.pad(m, (0, longest - m.shape[1])) for m in words]),
        }

    @property
    def picture_tokens(self) -> int:
        """Tokens beside words that the language model may make of pictures."""
        return 0

    def seen(self, texts: Conditioning) -> dict[str, Any]:
        """What `encode_prompt` is given beside words."""
        return {}


class Shown(Adapters):
    """The picture that the words are about, an image prompt, which the language model reads."""

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        self.prompts = 1

    def prompt_inputs(self, guides: Guides, guided: bool) -> dict[str, Any]:
        """Nothing beside what is made of the words."""
        return {}

    def guides(self, size: tuple[int, int], asked: Steering = AS_BEFORE, old: Guides | None = None) -> Guides:
        """As asked; a black picture where there is none yet."""
        if old is None and asked.image_prompt is None:
            asked = asked._replace(image_prompt=self.blank(size).prompts)
        return super().guides(size, asked, old)


class QwenImageEditModel(QwenImageModel):
    """Qwen-Image-Edit: reads the picture as further tokens, and what its language model sees in the one opened."""

    refers = True
    shown = True

    @staticmethod
    def on_latents(pipe: Any) -> nn.Module:
        """The transformer, on a noised latent and that of the picture."""
        return PackedQwen(pipe.transformer, pictures=2)

    @property
    def adapters(self) -> Adapters:
        """The picture that words are about."""
        return Shown(self.pipe)

    def read(self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]) -> Conditioning:
        """The texts; `condition` reads them with a picture."""
        return Conditioning(prompt or "", negative or "", guidance)

    def condition(
        self,
        prompt: str | None,
        negative: str | None,
        guidance: float,
        size: tuple[int, int],
        class_label: int | None = None,
        guides: Guides | None = None,
    ) -> Conditioning:
        """With the embeddings of the words and the picture that they are about."""
        texts = super().condition(prompt, negative, guidance, size, class_label, guides)
        return replace(texts, inputs=tuple(self.embeddings(texts).items()))

    @property
    def picture_tokens(self) -> int:
        """Those of the pipeline's area and a fourth more, as sizes are rounded; the language model's are 28x28."""
        return self._area // 28**2 * 5 // 4

    @property
    def _several(self) -> bool:
        return "Plus" in type(self.pipe).__name__

    @property
    def _module(self) -> Any:
        """Of the pipeline, which says to which size pictures are scaled."""
        return inspect.getmodule(type(self.pipe))

    @property
    def _area(self) -> int:
        return int(self._module.CONDITION_IMAGE_SIZE) if self._several else 1024 * 1024

    def seen(self, texts: Conditioning) -> dict[str, Any]:
        """The picture, scaled as the pipeline does."""
        picture = Image.fromarray(texts.guides.prompts[0].pixels)
        width, height = self._module.calculate_dimensions(self._area, picture.width / picture.height)[:2]
        scaled = self.pipe.image_processor.resize(picture, height, width)
        return {"image": [scaled] if self._several else scaled}
