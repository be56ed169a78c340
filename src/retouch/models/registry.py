"""The named networks: how to build each, what to feed it, how to edit its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from retouch.errors import OptionError
from retouch.models import resnet_generator, spade, super_resolution, transformer, transformers, unet, vae
from retouch.models.weights import fill, without_init


@dataclass(frozen=True)
class Inputs:
    """Arguments of one forward run; `args[0]` is the image or latent (B, C, H, W)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def with_image(self, image: Tensor) -> Inputs:
        """The same arguments with `args[0]` replaced."""
        return replace(self, args=(image, *self.args[1:]))


@dataclass(frozen=True)
class Network:
    """One benchmark network.

    `image` and `tiny_image` are the pixel sizes (H, W) that an edit is drawn on;
    the first input may live on a grid smaller by an integer factor (a latent).
    `gmacs` is the arithmetic of one dense run at full size, where published.
    """

    name: str
    summary: str
    image: tuple[int, int]
    tiny_image: tuple[int, int]
    make_module: Callable[[bool], nn.Module]
    make_inputs: Callable[[bool, torch.Generator], Inputs]
    gmacs: float | None = None

    def image_size(self, tiny: bool = False) -> tuple[int, int]:
        """Pixels (H, W) that masks of this network have."""
        return self.tiny_image if tiny else self.image

    def build(self, tiny: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
        """The module in eval mode, with random weights from `seed`.

        `tiny` keeps the topology and cuts channels and image. Raises ImportError
        naming the extra to install if the network's library is missing.
        """
        with without_init():
            module = self.make_module(tiny)
        fill(module, seed, dtype)
        module.eval().requires_grad_(False)
        return nn.Module.to(module, dtype)

    def inputs(self, tiny: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0) -> Inputs:
        """Example arguments from `seed`; floating-point image and context in `dtype`."""
        made = self.make_inputs(tiny, torch.Generator().manual_seed(seed))
        cast = {key: _cast(value, dtype) for key, value in made.kwargs.items()}
        return Inputs(tuple(_cast(arg, dtype) for arg in made.args), cast)

    def edited(self, inputs: Inputs, mask: Tensor, seed: int = 1) -> Inputs:
        """The arguments with other values wherever `mask` covers the first input.

        `mask` is bool [H, W] in image pixels; a latent cell is edited if any of
        its pixels is. Raises OptionError if the sizes have no common factor.
        """
        image = inputs.args[0]
        cells = on_grid(mask, image.shape[-2], image.shape[-1])
        other = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(seed))
        return inputs.with_image(torch.where(cells, other.to(image.dtype), image))


def on_grid(mask: Tensor, height: int, width: int) -> Tensor:
    """`mask`, bool [H, W], reduced by max to bool [height, width]; or enlarged by repetition."""
    rows, cols = mask.shape
    if height % rows == 0 and width % cols == 0:
        return mask.repeat_interleave(height // rows, 0).repeat_interleave(width // cols, 1)
    if rows % height or cols % width:
        raise OptionError(
            f"a mask of {rows}x{cols} pixels does not fit a grid of {height}x{width}: "
            "each side must be an integer multiple of the other"
        )
    return mask.reshape(height, rows // height, width, cols // width).any(3).any(1)


def tensor_of(output: Any) -> Tensor:
    """The first tensor of a module's result: itself, `.sample`, or the first of a tuple."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "sample"):
        return tensor_of(output.sample)
    if isinstance(output, (tuple, list)) and output:
        return tensor_of(output[0])
    raise TypeError(f"expected a tensor, a tuple or an output with .sample, got {type(output)}")


def names() -> tuple[str, ...]:
    """Names of all networks."""
    return tuple(_NETWORKS)


def get(name: str) -> Network:
    """The network called `name`; OptionError listing the choices if there is none."""
    if name not in _NETWORKS:
        raise OptionError(f"unknown model {name!r}; choose from: {', '.join(_NETWORKS)}")
    return _NETWORKS[name]


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Mapping):
        return {key: _cast(item, dtype) for key, item in value.items()}
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(dtype)
    return value


def _noise(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def _image_inputs(channels: int, side: int, tiny_side: int, tiny_channels: int | None = None) -> Callable[..., Inputs]:
    def make(tiny: bool, generator: torch.Generator) -> Inputs:
        size, count = (tiny_side, tiny_channels or channels) if tiny else (side, channels)
        return Inputs((_noise(generator, 1, count, size, size),))

    return make


def _label_inputs(tiny: bool, generator: torch.Generator) -> Inputs:
    """One-hot labels in blocks of 8x8 pixels, and a channel of edges."""
    height, width, labels = (64, 128, 5) if tiny else (256, 512, spade.CITYSCAPES)
    blocks = torch.randint(labels, (height // 8, width // 8), generator=generator)
    return Inputs((spade.semantics(on_grid(blocks, height, width), labels),))


def _ddpm_inputs(tiny: bool, generator: torch.Generator) -> Inputs:
    size = 64 if tiny else 256
    return Inputs((_noise(generator, 1, 3, size, size), torch.tensor([500])))


def _guided(latent: Tensor) -> Tensor:
    """Classifier-free guidance: the same latent twice."""
    return latent.expand(2, -1, -1, -1).contiguous()


def _sd15_inputs(tiny: bool, generator: torch.Generator) -> Inputs:
    size, tokens, width = (16, 7, 24) if tiny else (64, 77, 768)
    latent = _guided(_noise(generator, 1, 4, size, size))
    return Inputs((latent, torch.tensor([500, 500]), _noise(generator, 2, tokens, width)))


def _controlled_inputs(tiny: bool, generator: torch.Generator) -> Inputs:
    given = _sd15_inputs(tiny, generator)
    control = _noise(generator, 1, 32 if tiny else 320, *given.args[0].shape[2:])
    return replace(given, args=(*given.args, _guided(control)))


def _sdxl_inputs(tiny: bool, generator: torch.Generator) -> Inputs:
    size, tokens, width, pooled = (16, 7, 24, 32) if tiny else (128, 77, 2048, 1280)
    side = float(size * 8)
    added = {
        "text_embeds": _noise(generator, 1, pooled),
        "time_ids": torch.tensor([[side, side, 0.0, 0.0, side, side]]),
    }
    latent = _noise(generator, 1, 4, size, size)
    context = _noise(generator, 1, tokens, width)
    return Inputs((latent, torch.tensor([500]), context), {"added_cond_kwargs": added})


def _dit_inputs(tiny: bool, generator: torch.Generator) -> Inputs:
    size = 8 if tiny else 32
    latent = _noise(generator, 1, 4, size, size)
    return Inputs((latent, torch.tensor([500]), torch.tensor([3])))


def _sd3_inputs(tiny: bool, generator: torch.Generator) -> Inputs:
    size, tokens, width, pooled = (8, 7, 24, 16) if tiny else (64, 154, 4096, 2048)
    return Inputs(
        (
            _noise(generator, 1, 16, size, size),
            _noise(generator, 1, tokens, width),
            _noise(generator, 1, pooled),
            torch.tensor([500]),
        )
    )


def _flux_inputs(tiny: bool, generator: torch.Generator) -> Inputs:
    channels, size, tokens, width, pooled = (4, 16, 7, 24, 24) if tiny else (16, 128, 512, 4096, 768)
    latent, text = _noise(generator, 1, channels, size, size), _noise(generator, 1, tokens, width)
    others = {"timestep": torch.tensor([0.5]), "pooled_projections": _noise(generator, 1, pooled)}
    return Inputs((latent, text), others)


def _chroma_inputs(tiny: bool, generator: torch.Generator) -> Inputs:
    """A text as sessions pad it, half of it words."""
    channels, size, tokens, width = (4, 16, 8, 24) if tiny else (16, 128, 512, 4096)
    latent, text = _noise(generator, 1, channels, size, size), _noise(generator, 1, tokens, width)
    words = (torch.arange(tokens)[None] < tokens // 2).float()
    return Inputs((latent, text), {"timestep": torch.tensor([0.5]), "words": words})


def _crossed_inputs(channels: int, size: int, width: int) -> Callable[..., Inputs]:
    """Latents of transformers with cross-attention, and a text that is padded, half of it words."""

    def make(tiny: bool, generator: torch.Generator) -> Inputs:
        latent = (4, 16, 16) if tiny else (channels, size, size)
        tokens, depth = (8, 24) if tiny else (300, width)
        words = {"encoder_attention_mask": (torch.arange(tokens)[None] < tokens // 2).long()}
        text = _noise(generator, 1, tokens, depth)
        return Inputs((_noise(generator, 1, *latent), text, torch.tensor([500.0])), words)

    return make


def _qwen_inputs(tiny: bool, generator: torch.Generator) -> Inputs:
    """A text as sessions pad it, half of it words."""
    channels, size, tokens, width = (4, 16, 8, 32) if tiny else (16, 128, 512, 3584)
    texts = {
        "encoder_hidden_states": _noise(generator, 1, tokens, width),
        "encoder_hidden_states_mask": torch.arange(tokens)[None] < tokens // 2,
    }
    return Inputs((_noise(generator, 1, channels, size, size),), {"timestep": torch.tensor([0.5]), **texts})


def _klein_inputs(tiny: bool, generator: torch.Generator) -> Inputs:
    channels, size, tokens, width = (16, 6, 7, 24) if tiny else (128, 64, 512, 7680)
    latent = _noise(generator, 1, channels, size, size)
    return Inputs((latent, torch.tensor([0.5]), _noise(generator, 1, tokens, width)))


def _z_image_inputs(tiny: bool, generator: torch.Generator) -> Inputs:
    channels, size, tokens, width = (4, 16, 32, 32) if tiny else (16, 128, 512, 3840)
    latent = _noise(generator, 1, channels, size, size)
    there = torch.arange(tokens)[None] >= tokens // 2
    return Inputs((latent, torch.tensor([0.5]), _noise(generator, 1, tokens, width), there))


def _square(side: int) -> tuple[int, int]:
    return side, side


def _halves(
    name: str, family: str, kind: str, make: Callable[[bool], nn.Module], latent: tuple[int, int, int], side: int = 128
) -> Iterator[Network]:
    """Decoder and encoder of an autoencoder. latent: its channels, side where it is tiny, and channels there."""
    channels, tiny_side, tiny_channels = latent
    sizes, of = (_square(1024), _square(64)), f"of {family}, 1024x1024 (diffusers {kind})"
    latents = _image_inputs(channels, side, tiny_side, tiny_channels)
    yield Network(f"{name}-decoder", f"VAE decoder {of}", *sizes, lambda tiny: vae.decoder_of(make(tiny)), latents)
    yield Network(
        f"{name}-encoder",
        f"VAE encoder {of}",
        *sizes,
        lambda tiny: vae.encoder_of(make(tiny)),
        _image_inputs(3, 1024, 64),
    )


_NETWORKS = {
    network.name: network
    for network in (
        Network("ddpm-256", "DDPM U-Net of LSUN church at 256x256 (diffusers UNet2DModel)",
                _square(256), _square(64), unet.ddpm, _ddpm_inputs, 248.5),
        Network("sd15-unet", "Stable Diffusion 1.5 U-Net, 512x512, batch 2 (diffusers UNet2DConditionModel)",
                _square(512), _square(128), unet.sd15, _sd15_inputs, 803.0),
        Network("sdxl-unet", "SDXL U-Net at reduced depth, 1024x1024, batch 1 (diffusers UNet2DConditionModel)",
                _square(1024), _square(128), unet.sdxl, _sdxl_inputs),
        Network("sdxl-base-unet", "SDXL base U-Net, 1024x1024, batch 1 (diffusers UNet2DConditionModel)",
                _square(1024), _square(128), unet.sdxl_base, _sdxl_inputs),
        Network("sd15-controlnet",
                "Stable Diffusion 1.5 U-Net and ControlNet, 512x512, batch 2 (diffusers ControlNetModel)",
                _square(512), _square(128), unet.sd15_controlled, _controlled_inputs),
        Network("sd-vae-decoder", "Stable Diffusion VAE decoder, 64x64 latent to 512x512 (diffusers AutoencoderKL)",
                _square(512), _square(64), vae.decoder, _image_inputs(4, 64, 8), 1257.0),
        Network("sd-vae-encoder", "Stable Diffusion VAE encoder, 512x512 to 64x64 latent (diffusers AutoencoderKL)",
                _square(512), _square(64), vae.encoder, _image_inputs(3, 512, 64), 558.0),
        Network("taesd", "Tiny autoencoder, encoder and decoder in one, 512x512 (diffusers AutoencoderTiny)",
                _square(512), _square(64), vae.tiny_autoencoder, _image_inputs(3, 512, 64)),
        *_halves("flux-vae", "FLUX.1, SD 3 and Z-Image", "AutoencoderKL", transformers.flux_vae, (16, 16, 4)),
        *_halves("flux2-vae", "FLUX.2", "AutoencoderKLFlux2", transformers.flux2_vae, (32, 32, 4)),
        *_halves("dc-vae", "Sana", "AutoencoderDC", transformers.dc_vae, (32, 16, 4), 32),
        *_halves("qwen-vae", "Qwen-Image", "AutoencoderKLQwenImage", transformers.qwen_vae, (16, 16, 4)),
        Network("resnet-generator", "Image-to-image generator, 9 residual blocks, instance norm, 256x256",
                _square(256), _square(64), resnet_generator.for_benchmark, _image_inputs(3, 256, 64)),
        Network("gaugan", "SPADE generator (GauGAN) for Cityscapes, labels to picture, 256x512",
                (256, 512), (64, 128), spade.for_benchmark, _label_inputs, 281.3),
        Network("gaugan-compressed", "The same compressed (GAN Compression), 256x512",
                (256, 512), (64, 128), spade.compressed_for_benchmark, _label_inputs, 31.2),
        Network("srvgg", "Real-ESRGAN animevideov3, compact super-resolution, 256x256 to 1024x1024",
                _square(256), _square(32), super_resolution.srvgg, _image_inputs(3, 256, 32), 40.7),
        Network("rrdbnet", "Real-ESRGAN x4plus, super-resolution in 23 residual dense blocks, 256x256 to 1024x1024",
                _square(256), _square(32), super_resolution.rrdbnet, _image_inputs(3, 256, 32)),
        Network("dit", "Diffusion transformer, 12 blocks of width 384, 256x256 (diffusers DiT)",
                _square(256), _square(64), transformer.dit, _dit_inputs),
        Network("sd3", "SD3 joint-attention transformer, 6 blocks, 512x512 (diffusers SD3Transformer2DModel)",
                _square(512), _square(64), transformer.sd3, _sd3_inputs),
        Network("flux-block",
                "FLUX.1 schnell, one double and two single blocks, 1024x1024 (diffusers FluxTransformer2DModel)",
                _square(1024), _square(128), transformer.flux, _flux_inputs),
        Network("chroma-block",
                "Chroma, one double and two single blocks, 1024x1024 (diffusers ChromaTransformer2DModel)",
                _square(1024), _square(128), transformer.chroma, _chroma_inputs),
        Network("pixart-block", "PixArt-Sigma, four blocks, 1024x1024 (diffusers PixArtTransformer2DModel)",
                _square(1024), _square(128), transformer.pixart, _crossed_inputs(4, 128, 4096)),
        Network("sana-block", "Sana, four blocks, 1024x1024 (diffusers SanaTransformer2DModel)",
                _square(1024), _square(64), transformer.sana, _crossed_inputs(32, 32, 2304)),
        Network("flux2-klein-block",
                "FLUX.2 klein 4B, one double and four single blocks, 1024x1024 (diffusers Flux2Transformer2DModel)",
                _square(1024), _square(48), transformer.flux2_klein, _klein_inputs),
        Network("qwen-image-block", "Qwen-Image, two blocks, 1024x1024 (diffusers QwenImageTransformer2DModel)",
                _square(1024), _square(128), transformer.qwen_image, _qwen_inputs),
        Network("z-image-block",
                "Z-Image, one refining and four main blocks, 1024x1024 (diffusers ZImageTransformer2DModel)",
                _square(1024), _square(64), transformer.z_image, _z_image_inputs),
    )
}  # fmt: skip
