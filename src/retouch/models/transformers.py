"""Diffusion pipelines with a transformer, from published configurations, with random weights.

Transformer and autoencoder are those of the published models; text encoders have their width and few layers, as a
session reads words once. `tiny` keeps the topology and cuts everything.
"""

from __future__ import annotations

from typing import Any

import torch

from retouch.models.extras import diffusers, require

T5_WORDS = 512
"""Tokens that T5 reads."""

_PIECES = ["<pad>", "</s>", "<unk>", *"▁abcdefghijklmnopqrstuvwxyz"]
_GEMMA = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *_PIECES[3:]]
_LETTERS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "Ġ", *"abcdefghijklmnopqrstuvwxyz"]
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}{% if enable_thinking %}<|im_end|>{% endif %}"
)

TINY_VAE = {
    "block_out_channels": (16, 16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
}
FULL_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


def _library() -> Any:
    return require("transformers", "diffusers")


def flow(**options: Any) -> Any:
    """The scheduler of flow matching."""
    return diffusers().FlowMatchEulerDiscreteScheduler(**options)


# FLUX.1 (Black Forest Labs, 2024)


def flux(tiny: bool, inputs: int | None = None, reads_guidance: bool = False, **depth: int) -> Any:
    """`FluxTransformer2DModel`: as of schnell, or of dev, which reads the scale of guidance. inputs: channels that it
    reads, where these are not those of a latent. depth: other numbers of layers.
    """
    sizes: dict[str, Any] = {}
    if tiny:
        sizes = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
        sizes |= {"joint_attention_dim": 24, "pooled_projection_dim": 24, "axes_dims_rope": (4, 6, 6)}
    channels = 16 if tiny else 64
    return diffusers().FluxTransformer2DModel(
        in_channels=inputs or channels, out_channels=channels, guidance_embeds=reads_guidance, **(sizes | depth)
    )


def flux_vae(tiny: bool) -> Any:
    """The autoencoder of FLUX.1, which Z-Image has as well."""
    plain = {"use_quant_conv": False, "use_post_quant_conv": False}
    if tiny:
        return diffusers().AutoencoderKL(**TINY_VAE, **plain, sample_size=64, shift_factor=0.1, scaling_factor=0.4)
    return diffusers().AutoencoderKL(**FULL_VAE, **plain, sample_size=1024, shift_factor=0.1159, scaling_factor=0.3611)


def t5(tiny: bool, width: int = 24) -> Any:
    """T5's encoder, of two layers; `width` of a tiny one."""
    sizes = {"d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    if not tiny:
        sizes = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 2, "num_heads": 64}
    config = _library().T5Config(vocab_size=len(_PIECES), decoder_start_token_id=0, **sizes)
    return _library().T5EncoderModel(config)


def t5_tokenizer(words: int = T5_WORDS) -> Any:
    """Single letters, so many at most."""
    made = _library().T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(_PIECES)], extra_ids=0)
    made.model_max_length = words
    return made


# Chroma (Lodestone Rock, 2025)


def chroma(tiny: bool, **depth: int) -> Any:
    """`ChromaTransformer2DModel`, or one of another `depth`."""
    sizes: dict[str, Any] = {}
    if tiny:
        sizes = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16}
        sizes |= {"num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (4, 6, 6)}
        sizes |= {"approximator_num_channels": 16, "approximator_hidden_dim": 32, "approximator_layers": 1}
    return diffusers().ChromaTransformer2DModel(**(sizes | depth))


# PixArt-Sigma (Chen et al., arXiv 2403.04692)


def pixart(tiny: bool, **options: Any) -> Any:
    """`PixArtTransformer2DModel` of PixArt-Sigma XL at 1024x1024, or with other `options`."""
    sizes: dict[str, Any] = {"caption_channels": 4096, "interpolation_scale": 2, "use_additional_conditions": False}
    if tiny:
        sizes |= {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "cross_attention_dim": 32}
        sizes |= {"sample_size": 16, "caption_channels": 24, "interpolation_scale": 1}
    return diffusers().PixArtTransformer2DModel(**(sizes | options))


# Sana (Xie et al., arXiv 2410.10629), 1.6B, and its autoencoder (Chen et al., arXiv 2410.10733)


def sana(tiny: bool, **options: Any) -> Any:
    """`SanaTransformer2DModel` at 1024x1024, or with other `options`."""
    sizes: dict[str, Any] = {}
    if tiny:
        sizes = {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16}
        sizes |= {"num_layers": 2, "num_cross_attention_heads": 2, "cross_attention_head_dim": 16}
        sizes |= {"cross_attention_dim": 32, "caption_channels": 24, "sample_size": 16}
    return diffusers().SanaTransformer2DModel(**(sizes | options))


def dc_vae(tiny: bool, **options: Any) -> Any:
    """`AutoencoderDC` of Sana, 32 pixels to a position, or with other `options`; tiny, 4 pixels."""
    blocks: tuple[str, ...] = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    sizes: dict[str, Any] = {"downsample_block_type": "conv", "upsample_block_type": "interpolate"}
    sizes |= {"scaling_factor": 0.41407, "encoder_block_types": blocks, "decoder_block_types": blocks}
    if tiny:
        sizes |= {"latent_channels": 4, "attention_head_dim": 8}
        for half in ("encoder", "decoder"):
            sizes |= {f"{half}_block_types": blocks[1:4], f"{half}_block_out_channels": (16, 16, 32)}
            sizes |= {f"{half}_layers_per_block": (1, 1, 1), f"{half}_qkv_multiscales": ((), (), (5,))}
    return diffusers().AutoencoderDC(**(sizes | options))


def gemma(tiny: bool) -> Any:
    """The language model Gemma 2, of one layer."""
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"head_dim": 8}
    if not tiny:
        sizes = {"hidden_size": 2304, "intermediate_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4}
        sizes |= {"head_dim": 256}
    config = _library().Gemma2Config(vocab_size=len(_GEMMA), num_hidden_layers=1, **sizes)
    return _library().Gemma2Model(config)


def gemma_tokenizer(words: int) -> Any:
    """A `GemmaTokenizer` of single letters, so many at most."""
    made = _library().GemmaTokenizer(vocab={piece: i for i, piece in enumerate(_GEMMA)}, merges=[])
    made.model_max_length = words
    return made


# FLUX.2 klein (Black Forest Labs, 2026), 4B


def flux2_klein(tiny: bool, **depth: int) -> Any:
    """`Flux2Transformer2DModel` of klein 4B, or of another `depth`."""
    sizes: dict[str, Any] = {
        "in_channels": 128, "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24,
        "joint_attention_dim": 7680,
    }  # fmt: skip
    if tiny:
        sizes = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16}
        sizes |= {"num_attention_heads": 2, "joint_attention_dim": 24, "timestep_guidance_channels": 16}
        sizes |= {"axes_dims_rope": (4, 4, 4, 4)}
    return diffusers().Flux2Transformer2DModel(**(sizes | depth), guidance_embeds=False)


def flux2_vae(tiny: bool) -> Any:
    """`AutoencoderKLFlux2`, which normalises latents by running statistics."""
    sizes = {
        **TINY_VAE, "block_out_channels": (16, 16), "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "sample_size": 64,
    }  # fmt: skip
    made = diffusers().AutoencoderKLFlux2(**(sizes if tiny else {}))
    random = torch.Generator().manual_seed(3)
    made.bn.running_mean.normal_(generator=random)
    made.bn.running_var.uniform_(0.5, 2.0, generator=random)
    return made


def qwen3(layers: int, width: int, tiny: bool) -> Any:
    """The language model Qwen3 of so many layers."""
    sizes = {"intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    if not tiny:
        sizes = {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 128}
    config = _library().Qwen3Config(
        vocab_size=len(_LETTERS), hidden_size=width, num_hidden_layers=layers, max_position_embeddings=512, **sizes
    )
    return _library().Qwen3ForCausalLM(config)


def chat_tokenizer(tiny: bool) -> Any:
    """Single letters, with a chat around them; 64 tokens where it is tiny."""
    made = _library().Qwen2Tokenizer(vocab={letter: i for i, letter in enumerate(_LETTERS)}, merges=[])
    made.chat_template = _CHAT
    made.model_max_length = 64 if tiny else 512
    return made


# Z-Image (Alibaba, 2025)


def z_image(tiny: bool, **depth: int) -> Any:
    """`ZImageTransformer2DModel`, or one of another `depth`."""
    sizes: dict[str, Any] = {"axes_lens": [1536, 512, 512]}
    if tiny:
        sizes = {"in_channels": 4, "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
        sizes |= {"cap_feat_dim": 24, "axes_dims": [4, 6, 6], "axes_lens": [128, 32, 32]}
    return diffusers().ZImageTransformer2DModel(**(sizes | depth))


# Qwen-Image (Wu et al., arXiv 2508.02324)


def qwen_image(tiny: bool, **options: int) -> Any:
    """`QwenImageTransformer2DModel`, or one of another depth or with other options."""
    sizes: dict[str, Any] = {}
    if tiny:
        sizes = {"in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16}
        sizes |= {"num_attention_heads": 2, "joint_attention_dim": 32, "axes_dims_rope": (4, 6, 6)}
    return diffusers().QwenImageTransformer2DModel(**(sizes | options))


def qwen_vae(tiny: bool) -> Any:
    """`AutoencoderKLQwenImage`, for video."""
    sizes: dict[str, Any] = {
        "base_dim": 16, "z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False, True],
        "latents_mean": [0.1, -0.2, 0.0, 0.3], "latents_std": [1.5, 0.7, 1.0, 2.0],
    }  # fmt: skip
    return diffusers().AutoencoderKLQwenImage(**(sizes if tiny else {}))


def byte_tokenizer(special: tuple[str, ...] = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>")) -> Any:
    """A `Qwen2Tokenizer` of single bytes."""
    letters: Any = require("transformers.convert_slow_tokenizer", "diffusers").bytes_to_unicode()
    made = _library().Qwen2Tokenizer(vocab={each: i for i, each in enumerate(letters.values())}, merges=[])
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


def qwen_words(tiny: bool) -> Any:
    """The language model Qwen2.5-VL, of one layer, for `byte_tokenizer`."""
    tokenizer, width = byte_tokenizer(), 32 if tiny else 3584
    start, end, pad = tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>", "<|image_pad|>"])
    heads, half = (2, width // 4) if tiny else (28, 64)
    text = {
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": heads, "num_key_value_heads": 1 if tiny else 4, "bos_token_id": None,
        "eos_token_id": None,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e4,
            "mrope_section": [half // 4, half * 3 // 8, half * 3 // 8],
        },
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": width,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = _library().Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=pad, vision_start_token_id=start, vision_end_token_id=end
    )
    return _library().Qwen2_5_VLForConditionalGeneration(config)
