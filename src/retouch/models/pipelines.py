"""Diffusion pipelines to measure editing sessions on, built from published configurations.

Weights are random, from a fixed seed. Times, arithmetic and bytes are those of the real pipelines; the
pictures are not, so comparing two of them only says whether two methods compute the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from retouch.errors import OptionError
from retouch.models import transformers, unet, vae
from retouch.models.extras import diffusers, require
from retouch.models.weights import fill, without_init


@dataclass(frozen=True)
class Pipeline:
    """One pipeline. `image` and `tiny_image` are the sizes (H, W) it is made for; `prompt` is for those that read.

    steps: numbers of steps that it is measured with; guidance: its scale, 1 or less without the second run.
    """

    name: str
    summary: str
    image: tuple[int, int]
    tiny_image: tuple[int, int]
    make: Callable[[bool], Any]
    prompt: str | None = None
    steps: tuple[int, ...] = (10, 20, 50)
    guidance: float = 7.5

    def image_size(self, tiny: bool = False) -> tuple[int, int]:
        """Pixels (H, W) of its pictures."""
        return self.tiny_image if tiny else self.image

    def settings(self, steps: int) -> dict[str, Any]:
        """What a session of it is opened with, of strength 1, so that all steps run."""
        return {"prompt": self.prompt, "guidance": self.guidance, "steps": steps, "strength": 1.0}

    def build(self, tiny: bool = False) -> Any:
        """The diffusers pipeline, float32, on the CPU.

        `tiny` keeps the topology and cuts channels and image. Raises ImportError naming the extra to
        install if a library is missing.
        """
        return self.make(tiny)


def get(name: str) -> Pipeline:
    """The pipeline called `name`; OptionError listing the choices if there is none."""
    if name not in _PIPELINES:
        raise OptionError(f"unknown pipeline {name!r}; choose from: {', '.join(_PIPELINES)}")
    return _PIPELINES[name]


def _ddpm(tiny: bool) -> Any:
    modules = _modules({"unet": unet.ddpm}, tiny)
    return diffusers().DDPMPipeline(**modules, scheduler=diffusers().DDIMScheduler())


SD15_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
"""The schedule of noise that SD 1.x was trained with."""


def _sd15(
    tiny: bool,
    scheduler: str = "DDIMScheduler",
    settings: Mapping[str, Any] = MappingProxyType({"clip_sample": False, "set_alpha_to_one": False}),
    autoencoder: Callable[[bool], Any] = vae.autoencoder_kl,
    reads_guidance: bool = False,
) -> Any:
    """Stable Diffusion 1.5 with a scheduler, an autoencoder, and (LCM) a U-Net that reads the scale of guidance."""
    denoiser = partial(unet.sd15, reads_guidance=reads_guidance)
    modules = _modules({"unet": denoiser, "vae": autoencoder, "text_encoder": _text_encoder}, tiny)
    return diffusers().StableDiffusionImg2ImgPipeline(
        **modules,
        tokenizer=_tokenizer(),
        scheduler=getattr(diffusers(), scheduler)(**SD15_NOISE, **settings),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _modules(makers: Mapping[str, Callable[[bool], Any]], tiny: bool) -> dict[str, Any]:
    """The networks of a pipeline with random weights, ready to run."""
    with without_init():
        modules = {name: make(tiny) for name, make in makers.items()}
    for seed, module in enumerate(modules.values()):
        fill(module, seed)
        module.eval().requires_grad_(False)
    return modules


TOKENS = 77

# Byte-level letters, alone and at the end of a word: enough to read any lower-case prompt.
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_VOCABULARY = ("<|startoftext|>", "<|endoftext|>", *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS))


def _text_encoder(tiny: bool) -> Any:
    """CLIPTextModel of CLIP ViT-L/14, which SD 1.x reads its prompts with."""
    library = require("transformers", "diffusers")
    config = library.CLIPTextConfig(
        vocab_size=len(_VOCABULARY) if tiny else 49408,
        hidden_size=24 if tiny else 768,
        intermediate_size=32 if tiny else 3072,
        num_hidden_layers=1 if tiny else 12,
        num_attention_heads=2 if tiny else 12,
        max_position_embeddings=TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return library.CLIPTextModel(config)


def _tokenizer() -> Any:
    """A CLIPTokenizer whose vocabulary is single letters."""
    library = require("transformers", "diffusers")
    with TemporaryDirectory() as name:
        vocabulary, merges = Path(name) / "vocab.json", Path(name) / "merges.txt"
        vocabulary.write_text(json.dumps({word: i for i, word in enumerate(_VOCABULARY)}))
        merges.write_text("#version: 0.2\n")
        return library.CLIPTokenizer(str(vocabulary), str(merges), model_max_length=TOKENS)


def _with_transformer(kind: str, tiny: bool, modules: Mapping[str, Callable[[bool], Any]], **others: Any) -> Any:
    """A pipeline of diffusers whose pictures are of `TINY` pixels where it is tiny."""
    pipe = getattr(diffusers(), kind)(**_modules(modules, tiny), **others)
    if tiny:
        pipe.default_sample_size = TINY // pipe.vae_scale_factor
    return pipe


def _flux(tiny: bool) -> Any:
    modules = {"transformer": transformers.flux, "vae": transformers.flux_vae, "text_encoder": _text_encoder}
    return _with_transformer(
        "FluxPipeline", tiny, {**modules, "text_encoder_2": transformers.t5}, tokenizer=_tokenizer(),
        tokenizer_2=transformers.t5_tokenizer(), scheduler=transformers.flow(),
    )  # fmt: skip


def _flux2_klein(tiny: bool) -> Any:
    modules = {"transformer": transformers.flux2_klein, "vae": transformers.flux2_vae}
    modules["text_encoder"] = partial(_qwen3, 27, 8, 2560)  # three of its layers are read, the 27th last
    return _with_transformer(
        "Flux2KleinPipeline", tiny, modules, tokenizer=transformers.chat_tokenizer(tiny),
        scheduler=transformers.flow(use_dynamic_shifting=True, shift=3.0), is_distilled=True,
    )  # fmt: skip


def _z_image(tiny: bool) -> Any:
    modules = {"transformer": transformers.z_image, "vae": transformers.flux_vae}
    modules["text_encoder"] = partial(_qwen3, 2, 24, 2560)
    return _with_transformer(
        "ZImagePipeline", tiny, modules, tokenizer=transformers.chat_tokenizer(tiny),
        scheduler=transformers.flow(shift=3.0),
    )  # fmt: skip


def _qwen3(layers: int, small: int, large: int, tiny: bool) -> Any:
    return transformers.qwen3(layers, small if tiny else large, tiny)


def _qwen_image(tiny: bool) -> Any:
    modules = {"transformer": transformers.qwen_image, "vae": transformers.qwen_vae}
    return _with_transformer(
        "QwenImagePipeline", tiny, {**modules, "text_encoder": transformers.qwen_words},
        tokenizer=transformers.byte_tokenizer(),
        scheduler=transformers.flow(use_dynamic_shifting=True, shift_terminal=0.02),
    )  # fmt: skip


TINY = 64
"""Height and width of tiny pictures of pipelines with a transformer."""

_lcm = partial(_sd15, scheduler="LCMScheduler", settings={}, reads_guidance=True)
_turbo = partial(_sd15, scheduler="EulerDiscreteScheduler", settings={"timestep_spacing": "trailing"})

_LARGE = ((1024, 1024), (TINY, TINY))
_SD15, _WORDS = ((512, 512), (128, 128)), "a wooden house by the sea"
_PIPELINES = {
    pipeline.name: pipeline
    for pipeline in (
        Pipeline("ddpm-256", "DDPM of LSUN church, 256x256, DDIM steps", (256, 256), (64, 64), _ddpm),
        Pipeline(
            "sd15", "Stable Diffusion 1.5, image to image, 512x512, DDIM steps with guidance", *_SD15, _sd15, _WORDS
        ),
        Pipeline("sd15-lcm", "the same, LCM steps with embedded guidance", *_SD15, _lcm, _WORDS, (4,)),
        Pipeline(
            "sd15-taesd",
            "the same with a tiny autoencoder (TAESD)",
            *_SD15,
            partial(_lcm, autoencoder=vae.autoencoder_tiny),
            _WORDS,
            (4,),
        ),
        Pipeline("sd15-turbo", "the same, one step without guidance", *_SD15, _turbo, _WORDS, (1,), 0.0),
        Pipeline("flux", "FLUX.1 schnell, 1024x1024", *_LARGE, _flux, _WORDS, (4,), 0.0),
        Pipeline("flux2-klein", "FLUX.2 klein 4B, distilled, 1024x1024", *_LARGE, _flux2_klein, _WORDS, (4,), 0.0),
        Pipeline("qwen-image", "Qwen-Image, 1024x1024, with guidance", *_LARGE, _qwen_image, _WORDS, (20, 50), 4.0),
        Pipeline("z-image", "Z-Image-Turbo, 1024x1024", *_LARGE, _z_image, _WORDS, (8,), 0.0),
    )
}

PIPELINES: Mapping[str, str] = {pipeline.name: pipeline.summary for pipeline in _PIPELINES.values()}
"""What each pipeline is, by its name."""
