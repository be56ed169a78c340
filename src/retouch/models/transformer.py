"""Diffusion transformers, small, from diffusers' classes."""

from __future__ import annotations

from torch import nn

from retouch.models.extras import diffusers
from retouch.models.packed import PackedFlux2, PackedZImage


def dit(tiny: bool = False) -> nn.Module:
    """DiTTransformer2DModel of DiT-S/2's size: (x [1,4,32,32], t [1], class [1]) -> .sample."""
    module: nn.Module = diffusers().DiTTransformer2DModel(
        num_attention_heads=2 if tiny else 6,
        attention_head_dim=16 if tiny else 64,
        num_layers=2 if tiny else 12,
        in_channels=4,
        out_channels=8,
        sample_size=8 if tiny else 32,
    )
    return module


def sd3(tiny: bool = False) -> nn.Module:
    """SD3Transformer2DModel of six blocks.

    (x [1,16,64,64], context [1,154,4096], pooled [1,2048], t [1]) -> .sample like x.
    """
    heads, width = (2, 16) if tiny else (12, 64)
    module: nn.Module = diffusers().SD3Transformer2DModel(
        sample_size=8 if tiny else 64,
        num_layers=2 if tiny else 6,
        num_attention_heads=heads,
        attention_head_dim=width,
        joint_attention_dim=24 if tiny else 4096,
        caption_projection_dim=heads * width,
        pooled_projection_dim=16 if tiny else 2048,
        pos_embed_max_size=8 if tiny else 96,
    )
    return module


def flux2_klein(tiny: bool = False) -> nn.Module:
    """One double and four single blocks of FLUX.2 klein 4B, of its 5 and 20.

    (latent [1,128,64,64], t [1] from 0 to 1, text [1,512,7680]) -> (latent,).
    """
    return PackedFlux2(
        diffusers().Flux2Transformer2DModel(
            in_channels=16 if tiny else 128,
            num_layers=1,
            num_single_layers=2 if tiny else 4,
            attention_head_dim=16 if tiny else 128,
            num_attention_heads=2 if tiny else 24,
            joint_attention_dim=24 if tiny else 7680,
            timestep_guidance_channels=16 if tiny else 256,
            axes_dims_rope=(4, 4, 4, 4) if tiny else (32, 32, 32, 32),
            guidance_embeds=False,
        )
    )


def z_image(tiny: bool = False) -> nn.Module:
    """One refining and four main blocks of Z-Image, of its 2 and 30, without what it makes of texts alone.

    (latent [1,16,128,128], t [1] from 0 to 1, refined text [1,512,3840], which of its rows there are bool [1,512])
    -> (latent,).
    """
    network = diffusers().ZImageTransformer2DModel(
        in_channels=4 if tiny else 16,
        dim=32 if tiny else 3840,
        n_layers=2 if tiny else 4,
        n_refiner_layers=1,
        n_heads=2 if tiny else 30,
        n_kv_heads=2 if tiny else 30,
        cap_feat_dim=24 if tiny else 2560,
        axes_dims=[4, 6, 6] if tiny else [32, 48, 48],
        axes_lens=[64, 32, 32] if tiny else [1024, 512, 512],
    )
    network.cap_embedder, network.context_refiner = nn.Identity(), nn.ModuleList()
    return PackedZImage(network)
