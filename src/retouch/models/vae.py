"""Image encoders and decoders of latent diffusion, as modules from tensor to tensor."""

from __future__ import annotations

from typing import Any

from torch import nn

from retouch.models.chain import Chain, OneFrame
from retouch.models.extras import diffusers


def encoder_of(vae: Any) -> nn.Module:
    """Encoder of an autoencoder of diffusers: pixels `[B, 3, H, W]` to latents, of KL ones to mean and log-variance."""
    return _of_pictures(vae, Chain(vae.encoder, getattr(vae, "quant_conv", None) or nn.Identity()))


def decoder_of(vae: Any) -> nn.Module:
    """Decoder of an autoencoder of diffusers: latents `[B, C, h, w]` to pixels."""
    return _of_pictures(vae, Chain(getattr(vae, "post_quant_conv", None) or nn.Identity(), vae.decoder))


def _of_pictures(vae: Any, half: nn.Module) -> nn.Module:
    """Those for video read clips of one frame."""
    return OneFrame(half) if "dim_mult" in vae.config else half


def decoder(tiny: bool = False) -> nn.Module:
    """SD's VAE decoder with its post_quant_conv: [1,4,64,64] -> [1,3,512,512]."""
    return decoder_of(autoencoder_kl(tiny))


def encoder(tiny: bool = False) -> nn.Module:
    """SD's VAE encoder with its quant_conv: [1,3,512,512] -> mean and log-variance [1,8,64,64]."""
    return encoder_of(autoencoder_kl(tiny))


def tiny_autoencoder(tiny: bool = False) -> nn.Module:
    """AutoencoderTiny (TAESD) from image to latent to image, without the 8-bit step between."""
    vae = autoencoder_tiny(tiny)
    return Chain(vae.encoder, vae.decoder)


def autoencoder_tiny(tiny: bool = False) -> Any:
    """AutoencoderTiny of SD 1.x (TAESD): images [1,3,512,512], latents [1,4,64,64]."""
    width = (16,) * 4 if tiny else (64,) * 4
    return diffusers().AutoencoderTiny(encoder_block_out_channels=width, decoder_block_out_channels=width)


def autoencoder_kl(tiny: bool = False) -> Any:
    """AutoencoderKL of SD 1.x: images [1,3,512,512], latents [1,4,64,64]."""
    return diffusers().AutoencoderKL(
        sample_size=64 if tiny else 512,
        block_out_channels=(16, 16, 32, 32) if tiny else (128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1 if tiny else 2,
        latent_channels=4,
        norm_num_groups=8 if tiny else 32,
    )
