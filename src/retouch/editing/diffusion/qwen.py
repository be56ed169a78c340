"""Qwen-Image and Qwen-Image-Edit (Wu et al., arXiv 2508.02324)."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from retouch.editing.diffusion.adapters import Adapters
from retouch.editing.diffusion.guides import Images, Picture
from retouch.editing.diffusion.model import Conditioning, PipelineError
from retouch.editing.diffusion.packed import PackedModel
from retouch.editing.diffusion.references import References
from retouch.editing.diffusion.transformer import check_length
from retouch.kernels.devices import device_of
from retouch.models.packed import PackedQwen, packed, unpacked

WORDS = 512
"""Tokens of texts that the transformer reads; shorter texts are padded, and masked there."""

SEVERAL = 8
"""Pictures that Qwen-Image-Edit-Plus takes at most."""

BLACK = Picture.of(np.zeros((64, 64, 3), np.uint8))


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

    def output(self, result: Any, conditioning: Conditioning) -> Tensor:
        """float32 prediction `[1, C, h, w]`; a guided one with the length, token by token, of that of the texts."""
        found = super().output(result, conditioning)
        if not conditioning.guided:
            return found
        guided, given = packed(found), packed(result[0][1:].float())
        return unpacked(
            guided * (given.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)), *found.shape[2:]
        )

    def encoded(self, texts: Conditioning) -> dict[str, Tensor]:
        """Tokens of the language model and which of them are words, as many for every text."""
        pipe = self.pipe
        most = min(WORDS, pipe.tokenizer_max_length)
        check_length(pipe.tokenizer, most, texts, pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx)
        device, longest = device_of(pipe.text_encoder), most + self.picture_tokens(texts)
        read, seen = [texts.negative, texts.prompt] if texts.guided else [texts.prompt], self.seen(texts)
        found = [pipe.encode_prompt(prompt=text, device=device, **seen)[0] for text in read]
        if max(tokens.shape[1] for tokens in found) > longest:
            raise PipelineError(f"prompt and picture have more than {longest} tokens; crop the picture, it is too long")
        words = [torch.ones(1, tokens.shape[1], dtype=torch.bool, device=device) for tokens in found]
        return {
            "encoder_hidden_states": torch.cat([F.pad(t, (0, 0, 0, longest - t.shape[1])) for t in found]),
            "encoder_hidden_states_mask": torch.cat([F.pad(m, (0, longest - m.shape[1])) for m in words]),
        }

    def picture_tokens(self, texts: Conditioning) -> int:
        """Tokens beside words that the language model may make of pictures."""
        return 0

    def seen(self, texts: Conditioning) -> dict[str, Any]:
        """What `encode_prompt` is given beside words."""
        return {}


class Shown(References):
    """Pictures that the words are about: the first stands for the one that is edited."""

    def pictures(self, given: Images | None, old: tuple[Picture, ...]) -> tuple[Picture, ...]:
        """As given, or as before; black where there is none yet."""
        return super().pictures(given, old) or old or (BLACK,)


def takes_several(pipe: Any) -> bool:
    """Whether a pipeline takes several pictures."""
    return "Plus" in type(pipe).__name__


class QwenImageEditModel(QwenImageModel):
    """Qwen-Image-Edit: reads the picture as further tokens, and what its language model sees in the one opened.

    -Edit-Plus also reads other pictures, as references of the sequence.
    """

    refers = True
    shown = True

    @staticmethod
    def on_latents(pipe: Any) -> nn.Module:
        """The transformer, on a noised latent and that of the picture."""
        return PackedQwen(pipe.transformer, pictures=2)

    @property
    def adapters(self) -> Adapters:
        """The pictures that words are about."""
        return Shown(self.pipe, SEVERAL if takes_several(self.pipe) else 1, shown=1)

    def read(self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]) -> Conditioning:
        """The texts; `with_pictures` reads them with pictures."""
        return Conditioning(prompt or "", negative or "", guidance)

    def with_pictures(self, texts: Conditioning) -> Conditioning:
        """With the embeddings of the words and the pictures that they are about, and references."""
        others = [self._scaled(picture, self._module.VAE_IMAGE_SIZE) for picture in texts.guides.prompts[1:]]
        return replace(texts, inputs=tuple({**self.embeddings(texts), **self.references(others, texts)}.items()))

    def picture_tokens(self, texts: Conditioning) -> int:
        """Those of the pipeline's area and a fourth more, as sizes are rounded; the language model's are 28x28."""
        return len(texts.guides.prompts) * (self._area // 28**2 * 5 // 4)

    @property
    def _module(self) -> Any:
        """Of the pipeline, which says to which size pictures are scaled."""
        return inspect.getmodule(type(self.pipe))

    @property
    def _area(self) -> int:
        return int(self._module.CONDITION_IMAGE_SIZE) if takes_several(self.pipe) else 1024 * 1024

    def seen(self, texts: Conditioning) -> dict[str, Any]:
        """The pictures, scaled as the pipeline does."""
        pictures = [self._scaled(picture, self._area) for picture in texts.guides.prompts]
        return {"image": pictures if takes_several(self.pipe) else pictures[0]}

    def _scaled(self, picture: Picture, area: int) -> Image.Image:
        height, width = picture.size
        width, height = self._module.calculate_dimensions(area, width / height)[:2]
        scaled: Image.Image = self.pipe.image_processor.resize(Image.fromarray(picture.pixels), height, width)
        return scaled
