"""Z-Image and Z-Image-Turbo: one stream of picture and text, padded to multiples of 32 tokens; texts of Qwen3."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retouch.editing.diffusion.chat import WORDS, chat
from retouch.editing.diffusion.model import Conditioning, PipelineError
from retouch.editing.diffusion.packed import PackedModel
from retouch.editing.diffusion.transformer import check_length
from retouch.kernels.devices import device_of
from retouch.models.packed import PADDED, PackedZImage
from retouch.plan.policy import Policy


class ZImageModel(PackedModel):
    """Z-Image and its distilled kind, Turbo. Guidance is counted from 0, as in its pipeline: 0 is a single run."""

    def __init__(self, pipe: Any, policy: Policy, backend: str, vae: nn.Module | None = None) -> None:
        super().__init__(pipe, policy, backend, vae)
        self.side = int(pipe.transformer.config.all_patch_size[0])
        self.words = min(WORDS, pipe.tokenizer.model_max_length) // PADDED * PADDED

    @staticmethod
    def on_latents(pipe: Any) -> nn.Module:
        """The transformer, on latents and refined texts."""
        return PackedZImage(pipe.transformer)

    @property
    def default_size(self) -> tuple[int, int]:
        """As the pipeline has it."""
        return 1024, 1024

    def check_size(self, size: tuple[int, int]) -> None:
        """PipelineError unless the network divides the size (H, W) and has places for all of its tokens."""
        super().check_size(size)
        height, width = size
        rows, columns = height // self.multiple, width // self.multiple
        if rows * columns % PADDED:
            near = product(
                range(max(1, rows - PADDED), rows + PADDED), range(max(1, columns - PADDED), columns + PADDED)
            )
            fits = [(r, c) for r, c in near if r * c % PADDED == 0]
            r, c = min(fits, key=lambda fit: abs(fit[0] - rows) + abs(fit[1] - columns))
            raise PipelineError(
                f"an image of {width}x{height} pixels is {columns}x{rows} tokens, which must be a multiple of {PADDED} "
                f"together; crop or resize it, to {c * self.multiple}x{r * self.multiple} for example"
            )
        _, *longest = self.pipe.transformer.config.axes_lens
        if rows > longest[0] or columns > longest[1]:
            most = [n * self.multiple for n in longest]
            raise PipelineError(
                f"an image of {width}x{height} pixels is larger than the {most[1]}x{most[0]} that the network has "
                "places for"
            )

    def inputs(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """As of other packed latents; time is how far they are from 0 to 1."""
        found = super().inputs(x, time, conditioning)
        done = (1000 - time.float()) / 1000
        return {**found, "timestep": done.expand(len(found["sample"])).contiguous()}

    def output(self, result: Any, conditioning: Conditioning) -> Tensor:
        """As of every model; this network predicts the way to the picture, schedulers the way to the noise."""
        return -super().output(result, conditioning)

    def read(self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]) -> Conditioning:
        """As of every transformer, whose guidance is counted from 1."""
        return super().read(prompt, negative, guidance + 1, size)

    def encoded(self, texts: Conditioning) -> dict[str, Tensor]:
        """Refined texts, which end where the picture begins, and where their rows are; of both where they guide."""
        check_length(self.pipe.tokenizer, self.words, texts, chat(self.pipe.tokenizer, thinking=True))
        prompts = [texts.negative, texts.prompt] if texts.guided else [texts.prompt]
        found = [self._refined(str(prompt)) for prompt in prompts]
        missing = [self.words - len(rows) for rows in found]
        there = torch.arange(self.words) >= torch.tensor(missing)[:, None]
        rows = torch.stack([F.pad(rows, (0, 0, count, 0)) for rows, count in zip(found, missing, strict=True)])
        return {"encoder_hidden_states": rows, "encoder_attention_mask": there}

    def _refined(self, prompt: str) -> Tensor:
        device = device_of(self.pipe.text_encoder)
        (features,), _ = self.pipe.encode_prompt(
            prompt, device, do_classifier_free_guidance=False, max_sequence_length=self.words
        )
        denoiser: Any = self._denoiser
        found: Tensor = denoiser.refined(features.to(device_of(denoiser), self.dtype))
        return found
