"""Pipelines with a transformer on the latents of an autoencoder; of these Stable Diffusion 3."""

from __future__ import annotations

import inspect
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

WORDS = 256
"""Tokens of T5 that are read at most."""


def check_length(tokenizer: Any, most: int, texts: Conditioning, template: str = "{}", dropped: int = 0) -> None:
    """PipelineError unless prompt and negative prompt are `most` tokens or fewer, in a template without `dropped`."""
    for name, text in (("prompt", texts.prompt), ("negative prompt", texts.negative)):
        count = len(tokenizer(template.format(text or "")).input_ids) - dropped
        if count > most:
            raise PipelineError(f"the {name} has {count} tokens, and the text encoder reads {most} at most; shorten it")


def default(pipe: Any, name: str) -> Any:
    """What the call of a pipeline takes for an argument that is not given."""
    return inspect.signature(type(pipe).__call__).parameters[name].default


class TransformerModel(LatentModel):
    """A transformer of which a token is a square of positions of a latent."""

    side = 2
    """Positions of a token, in height and in width."""
    distilled = ""
    """Why there is nothing to avoid, where guidance is not a second run."""

    def __init__(self, pipe: Any, policy: Policy, backend: str, vae: nn.Module | None = None) -> None:
        self._denoiser = self.on_latents(pipe)
        super().__init__(pipe, policy, backend, vae)

    @staticmethod
    def on_latents(pipe: Any) -> nn.Module:
        """The transformer of a pipeline as a network on latents."""
        found: nn.Module = pipe.transformer
        return found

    @property
    def denoiser(self) -> nn.Module:
        """The transformer, on latents, with its LoRAs."""
        return self.adapters.scaled(self._denoiser)

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

    def inputs(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Latents, time and texts; guidance runs a batch of two, without and with the texts."""
        batch = torch.cat([x, x]) if conditioning.guided else x
        found = {"hidden_states": batch.to(self.dtype), "timestep": time.float().expand(len(batch)).contiguous()}
        return {**found, **dict(conditioning.inputs), "return_dict": False}

    def read(self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]) -> Conditioning:
        """With the embeddings of a prompt ("" when there is none) and of what to avoid.

        PipelineError for something to avoid where a model is `distilled`, which is run without that.
        """
        if self.distilled and negative:
            raise PipelineError(f"{type(self.pipe).__name__} takes no negative prompt: {self.distilled}")
        texts = Conditioning(prompt or "", negative or "", guidance, distilled=bool(self.distilled))
        return replace(texts, inputs=tuple({**self.embeddings(texts), **self.guidance_inputs(guidance)}.items()))

    def guidance_inputs(self, guidance: float) -> dict[str, Tensor]:
        """What the network reads of the scale of guidance."""
        return {}

    @torch.no_grad()
    def embeddings(self, texts: Conditioning) -> dict[str, Tensor]:
        """What the transformer reads of texts, by its arguments, on the host."""
        given = self.encoded(texts).items()
        return {name: t.to(HOST, self.dtype if t.is_floating_point() else t.dtype) for name, t in given}

    @abstractmethod
    def encoded(self, texts: Conditioning) -> dict[str, Tensor]:
        """The same, where the text encoders left it: of the prompt, and where it guides of what to avoid before it.

        PipelineError for texts that are longer than these read.
        """


class StableDiffusion3Model(TransformerModel):
    """Stable Diffusion 3 and 3.5, with or without T5."""

    def __init__(self, pipe: Any, policy: Policy, backend: str, vae: nn.Module | None = None) -> None:
        super().__init__(pipe, policy, backend, vae)
        self.side = int(pipe.transformer.config.patch_size)

    def encoded(self, texts: Conditioning) -> dict[str, Tensor]:
        """Tokens of both CLIP encoders and of T5, the vectors of CLIP; where texts guide without and with them."""
        longest = min(WORDS, getattr(self.pipe.tokenizer_3, "model_max_length", WORDS))
        check_length(self.pipe.tokenizer_3 or self.pipe.tokenizer, longest, texts)
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
