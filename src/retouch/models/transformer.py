"""Diffusion transformers, small, from diffusers' classes."""

from __future__ import annotations

from torch import nn

from retouch.models.extras import diffusers


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
