"""Pipelines with a transformer on the latents of an autoencoder: FLUX.1, Stable Diffusion 3."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from retouch.editing.diffusion.latents import LatentModel
from retouch.editing.diffusion.model import Conditioning, PipelineError
from retouch.kernels.devices import HOST, device_of
from retouch.models.extras import diffusers
from retouch.plan.policy import Policy

WORDS, SD3_WORDS = 512, 256
"""Tokens of T5 that are read at most."""


class PackedFlux(nn.Module):
    """`FluxTransformer2DModel` on a latent `[B, C, H, W]`, of which 2x2 positions are a token; (prediction,)."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, sample: Tensor, encoder_hidden_states: Tensor, **others: Tensor) -> tuple[Tensor]:
        """The prediction; `others` are the transformer's: time, pooled text, guidance."""
        b, c, height, width = sample.shape
        h, w = height // 2, width // 2
        packed = sample.view(b, c, h, 2, w, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w, 4 * c)
        found = self.transformer(
            hidden_states=packed,
            encoder_hidden_states=encoder_hidden_states,
            img_ids=places(h, w, sample),
            txt_ids=torch.zeros(encoder_hidden_states.shape[1], 3, dtype=sample.dtype, device=sample.device),
            return_dict=False,
            **others,
        )[0]
        return (found.view(b, h, w, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c, height, width),)


def places(height: int, width: int, like: Tensor) -> Tensor:
    """`[height * width, 3]`: 0, row and column of every token."""
    rows, columns = (torch.arange(n, dtype=like.dtype, device=like.device) for n in (height, width))
    rows, columns = rows[:, None].expand(height, width), columns.expand(height, width)
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3)


class TransformerModel(LatentModel):
    """A transformer of which a token is a square of positions of a latent."""

    side = 2
    """Positions of a token, in height and in width."""

    @property
    def denoiser(self) -> nn.Module:
        """The transformer."""
        found: nn.Module = self.pipe.transformer
        return found

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return int(self.pipe.transformer.config.in_channels)

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of a token."""
        return self.side * self.factor

    @property
    def default_size(self) -> tuple[int, int]:
        """As the pipeline has it."""
        size = int(self.pipe.default_sample_size) * self.factor
        return size, size

    def schedule(self, size: tuple[int, int], steps: int) -> dict[str, Any]:
        """By how much levels of noise are shifted for the number of tokens, where the scheduler asks for that."""
        config, count = self.pipe.scheduler.config, size[0] * size[1] // self.multiple**2
        names = {"base_seq_len": "base_image_seq_len", "max_seq_len": "max_image_seq_len"}
        names |= {name: name for name in ("base_shift", "max_shift")}
        given = {name: config[key] for name, key in names.items() if key in config}
        return {"mu": diffusers().pipelines.flux.pipeline_flux.calculate_shift(count, **given)}

    @torch.no_grad()
    def embeddings(self, texts: Conditioning) -> dict[str, Tensor]:
        """What the transformer reads of texts, on the host."""
        found = self.encoded(texts).items()
        return {name: t.to(HOST, self.dtype if t.is_floating_point() else t.dtype) for name, t in found}

    @abstractmethod
    def encoded(self, texts: Conditioning) -> dict[str, Tensor]:
        """Texts as arguments of the transformer, of both where they guide."""


class FluxModel(TransformerModel):
    """FLUX.1 schnell and dev: guidance is none, or an input of the network."""

    def __init__(self, pipe: Any, policy: Policy, backend: str, vae: nn.Module | None = None) -> None:
        self._denoiser = PackedFlux(pipe.transformer)
        super().__init__(pipe, policy, backend, vae)

    @property
    def denoiser(self) -> nn.Module:
        """The transformer, on latents."""
        return self._denoiser

    @property
    def channels(self) -> int:
        """Channels of a latent; the transformer reads four positions at once."""
        return super().channels // self.side**2

    def schedule(self, size: tuple[int, int], steps: int) -> dict[str, Any]:
        """Levels of noise in equal steps down to one of them."""
        levels = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).numpy()
        return {**super().schedule(size, steps), "sigmas": levels}

    def inputs(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Latent, time from 0 to 1 and texts."""
        return {"sample": x.to(self.dtype), "timestep": time.to(self.dtype) / 1000, **dict(conditioning.inputs)}

    def read(self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]) -> Conditioning:
        """With the embeddings of a prompt ("" when there is none). PipelineError for something to avoid."""
        if negative:
            raise PipelineError(f"{type(self.pipe).__name__} takes no negative prompt: guidance is in its network")
        texts = Conditioning(prompt or "", "", guidance, distilled=True)
        return replace(texts, inputs=tuple({**self.embeddings(texts), **self._scale(guidance)}.items()))

    def _scale(self, guidance: float) -> dict[str, Tensor]:
        embeds = self.pipe.transformer.config.guidance_embeds
        return {"guidance": torch.tensor([guidance])} if embeds else {}

    def encoded(self, texts: Conditioning) -> dict[str, Tensor]:
        """Tokens of T5, the vector of CLIP."""
        longest = min(WORDS, self.pipe.tokenizer_2.model_max_length)
        device = device_of(self.pipe.text_encoder)
        tokens, vector, _ = self.pipe.encode_prompt(texts.prompt, device=device, max_sequence_length=longest)
        return {"encoder_hidden_states": tokens, "pooled_projections": vector}


class StableDiffusion3Model(TransformerModel):
    """Stable Diffusion 3 and 3.5, with or without T5."""

    def __init__(self, pipe: Any, policy: Policy, backend: str, vae: nn.Module | None = None) -> None:
        super().__init__(pipe, policy, backend, vae)
        self.side = int(pipe.transformer.config.patch_size)

    def inputs(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Latents, time and texts; guidance runs a batch of two, without and with the texts."""
        batch = torch.cat([x, x]) if conditioning.guided else x
        found = {"hidden_states": batch.to(self.dtype), "timestep": time.float().expand(len(batch)).contiguous()}
        return {**found, **dict(conditioning.inputs), "return_dict": False}

    def read(self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]) -> Conditioning:
        """With the embeddings of a prompt ("" when there is none) and of what to avoid."""
        texts = Conditioning(prompt or "", negative or "", guidance)
        return replace(texts, inputs=tuple(self.embeddings(texts).items()))

    def encoded(self, texts: Conditioning) -> dict[str, Tensor]:
        """Tokens of both CLIP encoders and of T5, the vectors of CLIP; where texts guide without and with them."""
        longest = min(SD3_WORDS, getattr(self.pipe.tokenizer_3, "model_max_length", SD3_WORDS))
        tokens, negatives, vector, negative_vector = self.pipe.encode_prompt(
            prompt=texts.prompt,
            prompt_2=None,
            prompt_3=None,
            negative_prompt=texts.negative,
            device=device_of(self.pipe.text_encoder),
            do_classifier_free_guidance=texts.guided,
            max_sequence_length=longest,
        )
        if texts.guided:
            tokens, vector = torch.cat([negatives, tokens]), torch.cat([negative_vector, vector])
        return {"encoder_hidden_states": tokens, "pooled_projections": vector}
