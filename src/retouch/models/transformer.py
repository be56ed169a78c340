"""Diffusion transformers, small, from diffusers' classes."""

from __future__ import annotations

from torch import nn

from retouch.models import transformers
from retouch.models.extras import diffusers
from retouch.models.packed import PackedChroma, PackedFlux, PackedFlux2, PackedQwen, PackedZImage


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


def flux(tiny: bool = False) -> nn.Module:
    """One double and two single blocks of FLUX.1 schnell, of its 19 and 38.

    (latent [1,16,128,128], text [1,512,4096], timestep [1] from 0 to 1, pooled_projections [1,768]) -> (latent,).
    """
    return PackedFlux(transformers.flux(tiny, num_layers=1, num_single_layers=2))


def chroma(tiny: bool = False) -> nn.Module:
    """One double and two single blocks of Chroma, of its 19 and 38.

    (latent [1,16,128,128], text [1,512,4096], timestep [1] from 0 to 1, words [1,512]) -> (latent,).
    """
    return PackedChroma(transformers.chroma(tiny, num_layers=1, num_single_layers=2))


def pixart(tiny: bool = False) -> nn.Module:
    """Four blocks of PixArt-Sigma, of its 28.

    (latent [1,4,128,128], text [1,300,4096], timestep [1], encoder_attention_mask [1,300]) -> .sample [1,8,128,128].
    """
    module: nn.Module = transformers.pixart(tiny, num_layers=2 if tiny else 4)
    return module


def sana(tiny: bool = False) -> nn.Module:
    """Four blocks of Sana, of its 20.

    (latent [1,32,32,32], text [1,300,2304], timestep [1], encoder_attention_mask [1,300]) -> .sample like the latent.
    """
    module: nn.Module = transformers.sana(tiny, num_layers=2 if tiny else 4)
    return module


def flux2_klein(tiny: bool = False) -> nn.Module:
    """One double and four single blocks of FLUX.2 klein 4B, of its 5 and 20.

    (latent [1,128,64,64], t [1] from 0 to 1, text [1,512,7680]) -> (latent,).
    """
    return PackedFlux2(transformers.flux2_klein(tiny, num_layers=1, num_single_layers=2 if tiny else 4))


def qwen_image(tiny: bool = False) -> nn.Module:
    """Two blocks of Qwen-Image, of its 60.

    (latent [1,16,128,128], encoder_hidden_states [1,512,3584], encoder_hidden_states_mask bool [1,512], timestep [1]
    from 0 to 1) -> (latent,).
    """
    return PackedQwen(transformers.qwen_image(tiny, num_layers=2))


def z_image(tiny: bool = False) -> nn.Module:
    """One refining and four main blocks of Z-Image, of its 2 and 30, without what it makes of texts alone.

    (latent [1,16,128,128], t [1] from 0 to 1, refined text [1,512,3840], which of its rows there are bool [1,512])
    -> (latent,).
    """
    network = transformers.z_image(tiny, n_layers=2 if tiny else 4, n_refiner_layers=1)
    network.cap_embedder, network.context_refiner = nn.Identity(), nn.ModuleList()
    return PackedZImage(network)
