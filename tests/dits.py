"""The transformers that people run, tiny and with random weights, as diffusers builds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

import retouch
from retouch import Policy
from retouch.ir.layout import Layout
from support import fill, noise

GRID = 6, 8
"""Positions of the image, each a token."""
TEXT = 5
"""Tokens of text."""
TOKENS = {"hidden_states": retouch.tokens(*GRID)}


@dataclass(frozen=True, eq=False)
class Transformer:
    """A network with its arguments; `image` names the one that is edited, `scale` is its pixels to a token."""

    module: nn.Module
    arguments: dict[str, Any]
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    image: str = "hidden_states"
    scale: int = 1

    def dense(self, **changed: Any) -> Tensor:
        with torch.no_grad():
            return taken(self.module(**self.arguments | changed))

    def compiled(self, policy: str | Policy, backend: str = "cpu") -> retouch.Incremental:
        return retouch.compile(self.module, kwargs=self.arguments, layouts=self.layouts, policy=policy, backend=backend)

    def edited(self, mask: Tensor, seed: int = 7) -> dict[str, Tensor]:
        """The image with other values under a mask bool `[H, W]` of tokens."""
        x = self.arguments[self.image]
        new = noise(*x.shape, seed=seed)
        if x.dim() == 3:
            return {self.image: torch.where(mask.reshape(1, -1, 1), new, x)}
        wide = mask.repeat_interleave(self.scale, 0).repeat_interleave(self.scale, 1)
        return {self.image: torch.where(wide[None, None], new, x)}


def taken(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result.sample


def _ids(height: int, width: int, axes: int) -> Tensor:
    ids = torch.zeros(height, width, axes)
    ids[..., 1] += torch.arange(height)[:, None]
    ids[..., 2] += torch.arange(width)
    return ids.reshape(-1, axes)


def _flux_like(axes: int = 3) -> dict[str, Any]:
    height, width = GRID
    return {
        "hidden_states": noise(1, height * width, 16), "encoder_hidden_states": noise(1, TEXT, 24, seed=1),
        "timestep": torch.tensor([0.7]), "img_ids": _ids(height, width, axes), "txt_ids": torch.zeros(TEXT, axes),
        "return_dict": False,
    }  # fmt: skip


def flux() -> Transformer:
    module = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=20, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return Transformer(fill(module), _flux_like() | {"pooled_projections": noise(1, 20, seed=2)}, TOKENS)


def flux2() -> Transformer:
    module = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    arguments = _flux_like(4)
    return Transformer(fill(module), arguments, TOKENS)


def chroma() -> Transformer:
    module = diffusers.ChromaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, axes_dims_rope=(4, 6, 6), approximator_num_channels=16, approximator_hidden_dim=32,
        approximator_layers=1,
    )  # fmt: skip
    words = torch.tensor([[1.0] * (TEXT - 2) + [0.0] * 2 + [1.0] * (GRID[0] * GRID[1])])
    return Transformer(fill(module), _flux_like() | {"attention_mask": words}, TOKENS)


def qwen() -> Transformer:
    module = diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    arguments = {
        "hidden_states": noise(1, GRID[0] * GRID[1], 16), "encoder_hidden_states": noise(1, TEXT, 24, seed=1),
        "encoder_hidden_states_mask": torch.tensor([[True] * (TEXT - 1) + [False]]), "timestep": torch.tensor([0.7]),
        "img_shapes": [(1, *GRID)], "return_dict": False,
    }  # fmt: skip
    return Transformer(fill(module), arguments, TOKENS)


class OneZImage(nn.Module):
    """`ZImageTransformer2DModel` of one picture (B, C, H, W), which it takes as a list of frames."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer.eval()
        embedder = transformer.rope_embedder
        embedder.freqs_cis = embedder.precompute_freqs_cis(embedder.axes_dims, embedder.axes_lens, embedder.theta)
        self.eval()

    def forward(self, x: Tensor, t: Tensor, cap_feats: Tensor) -> tuple[Tensor]:
        found = self.transformer([x[0][:, None]], t, [cap_feats[0]], return_dict=False)[0]
        return (torch.stack(found)[:, :, 0],)


def z_image() -> Transformer:
    module = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=24,
        axes_dims=[4, 6, 6], axes_lens=[64, 32, 32],
    )  # fmt: skip
    arguments = {"x": noise(1, 4, 16, 16), "t": torch.tensor([0.3]), "cap_feats": noise(1, TEXT, 24, seed=1)}
    return Transformer(OneZImage(fill(module)), arguments, image="x", scale=2)


def sd3(**options: Any) -> Transformer:
    module = diffusers.SD3Transformer2DModel(
        sample_size=16, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, caption_projection_dim=32, pooled_projection_dim=20, pos_embed_max_size=16, **options,
    )  # fmt: skip
    arguments = {
        "hidden_states": noise(1, 4, 12, 16), "encoder_hidden_states": noise(1, TEXT, 24, seed=1),
        "pooled_projections": noise(1, 20, seed=2), "timestep": torch.tensor([500.0]), "return_dict": False,
    }  # fmt: skip
    return Transformer(fill(module), arguments, scale=2)


def sd35() -> Transformer:
    return sd3(qk_norm="rms_norm", dual_attention_layers=(0,))


def pixart() -> Transformer:
    module = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=32, sample_size=16, caption_channels=24, use_additional_conditions=False,
    )  # fmt: skip
    return Transformer(fill(module), _crossed(4, 12, 16), scale=2)


def _crossed(channels: int, height: int, width: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, channels, height, width), "encoder_hidden_states": noise(1, TEXT, 24, seed=1),
        "encoder_attention_mask": torch.tensor([[1] * (TEXT - 1) + [0]]), "timestep": torch.tensor([500.0]),
        "return_dict": False,
    }  # fmt: skip


def sana() -> Transformer:
    module = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32, caption_channels=24,
        sample_size=8,
    )  # fmt: skip
    return Transformer(fill(module), _crossed(4, *GRID))


ALL: dict[str, Callable[[], Transformer]] = {
    "flux": flux, "flux2": flux2, "chroma": chroma, "qwen": qwen, "z-image": z_image, "sd3": sd3, "sd3.5": sd35,
    "pixart": pixart, "sana": sana,
}  # fmt: skip


@cache
def transformer(name: str) -> Transformer:
    return ALL[name]()
