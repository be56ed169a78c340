"""Which model a pipeline with a transformer gets, by the name of its class."""

from __future__ import annotations

from typing import Any

from torch import nn

from retouch.editing.diffusion.chroma import ChromaModel
from retouch.editing.diffusion.crossed import PixArtModel, SanaModel, SanaSprintModel
from retouch.editing.diffusion.flux import FluxFillModel, FluxKontextModel, FluxModel
from retouch.editing.diffusion.flux2 import Flux2InpaintModel, Flux2KVModel, Flux2Model
from retouch.editing.diffusion.model import Model, PipelineError
from retouch.editing.diffusion.qwen import QwenImageEditModel, QwenImageModel
from retouch.editing.diffusion.transformer import StableDiffusion3Model, TransformerModel
from retouch.editing.diffusion.zimage import ZImageModel
from retouch.plan.policy import Policy

FAMILIES: dict[str, type[TransformerModel]] = {
    "ChromaPipeline": ChromaModel,
    "ChromaImg2ImgPipeline": ChromaModel,
    "ChromaInpaintPipeline": ChromaModel,
    "FluxPipeline": FluxModel,
    "FluxImg2ImgPipeline": FluxModel,
    "FluxInpaintPipeline": FluxModel,
    "FluxFillPipeline": FluxFillModel,
    "FluxKontextPipeline": FluxKontextModel,
    "FluxKontextInpaintPipeline": FluxKontextModel,
    "Flux2KleinPipeline": Flux2Model,
    "Flux2KleinKVPipeline": Flux2KVModel,
    "Flux2KleinInpaintPipeline": Flux2InpaintModel,
    "PixArtAlphaPipeline": PixArtModel,
    "PixArtSigmaPipeline": PixArtModel,
    "QwenImagePipeline": QwenImageModel,
    "QwenImageImg2ImgPipeline": QwenImageModel,
    "QwenImageInpaintPipeline": QwenImageModel,
    "QwenImageEditPipeline": QwenImageEditModel,
    "QwenImageEditPlusPipeline": QwenImageEditModel,
    "QwenImageEditInpaintPipeline": QwenImageEditModel,
    "SanaPipeline": SanaModel,
    "SanaSprintPipeline": SanaSprintModel,
    "SanaSprintImg2ImgPipeline": SanaSprintModel,
    "StableDiffusion3Pipeline": StableDiffusion3Model,
    "StableDiffusion3Img2ImgPipeline": StableDiffusion3Model,
    "StableDiffusion3InpaintPipeline": StableDiffusion3Model,
    "ZImagePipeline": ZImageModel,
    "ZImageImg2ImgPipeline": ZImageModel,
    "ZImageInpaintPipeline": ZImageModel,
}
"""Models by the pipelines of diffusers that hold them."""


def check_family(name: str) -> None:
    """PipelineError, with what there is, unless `name` is a pipeline with a transformer that is supported."""
    if name not in FAMILIES:
        raise PipelineError(f"{name} is not supported; of pipelines with a transformer there are {', '.join(FAMILIES)}")


def transformer_of(pipe: Any, policy: Policy, backend: str, vae: nn.Module | None) -> Model:
    """The model in a pipeline with a transformer; PipelineError as `check_family`."""
    name = type(pipe).__name__
    check_family(name)
    return FAMILIES[name](pipe, policy, backend, vae)
