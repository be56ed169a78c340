"""Transformers of diffusers on latents as maps; they pack these into tokens and say where each token is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from retouch.models.extras import diffusers

PADDED = 32
"""Picture and text of Z-Image are each a multiple of so many tokens."""


REFERENCE = 10
"""Places in time between a picture of FLUX.2 and the first that it refers to, and between these."""


def packed(latent: Tensor) -> Tensor:
    """Tokens `[B, h/2 * w/2, 4C]` of a latent `[B, C, h, w]`."""
    b, c, height, width = latent.shape
    h, w = height // 2, width // 2
    return latent.view(b, c, h, 2, w, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w, 4 * c)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The latent `[B, C, height, width]` of its tokens."""
    h, w, c = height // 2, width // 2, tokens.shape[2] // 4
    return tokens.view(-1, h, w, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, c, height, width)


class PackedFlux(nn.Module):
    """`FluxTransformer2DModel` on a latent `[B, n * C, h, w]`, of which 2x2 positions are a token; (prediction,).

    pictures: how many of C channels there are, noised latent first, each a grid of tokens in one sequence.
    """

    def __init__(self, transformer: nn.Module, pictures: int = 1) -> None:
        super().__init__()
        self.transformer, self.pictures = transformer, pictures

    def forward(self, sample: Tensor, encoder_hidden_states: Tensor, **others: Tensor) -> tuple[Tensor]:
        """The prediction; `others` are the transformer's: time, pooled text, guidance."""
        height, width = sample.shape[2:]
        parts = [packed(part) for part in sample.chunk(self.pictures, 1)]
        places = _places(sample.device, 1, height // 2, width // 2)
        first = torch.tensor([1, 0, 0], device=sample.device)
        found = self.transformer(
            hidden_states=torch.cat(parts, 1) if parts[1:] else parts[0],
            encoder_hidden_states=encoder_hidden_states,
            img_ids=torch.cat([places + number * first for number in range(self.pictures)]),
            txt_ids=torch.zeros(encoder_hidden_states.shape[1], 3, dtype=torch.int64, device=sample.device),
            return_dict=False,
            **others,
        )[0]
        return (unpacked(found[:, : parts[0].shape[1]], height, width),)


class PackedChroma(PackedFlux):
    """`ChromaTransformer2DModel` on a latent `[B, C, h, w]`, of which 2x2 positions are a token; (prediction,)."""

    def forward(self, sample: Tensor, encoder_hidden_states: Tensor, **others: Tensor) -> tuple[Tensor]:
        """The prediction. Of the others `words` `[B, S]` are 1 for tokens of the text that are read, and 0.

        As its pipeline has it, the mask is numbers that are added to the scores, not one that hides: texts weigh e
        times as much where they are read.
        """
        words, (height, width) = others.pop("words"), sample.shape[2:]
        picture = torch.ones(len(words), height // 2 * (width // 2), dtype=words.dtype, device=words.device)
        mask = torch.cat([words, picture], 1)
        return super().forward(sample, encoder_hidden_states, attention_mask=mask, **others)


class PackedQwen(nn.Module):
    """`QwenImageTransformer2DModel` on a latent `[B, n * C, h, w]`, of which 2x2 positions are a token; (prediction,).

    pictures: how many of C channels there are, noised latent first, each a grid of tokens in one sequence.
    """

    def __init__(self, transformer: nn.Module, pictures: int = 1) -> None:
        super().__init__()
        self.transformer, self.pictures = transformer, pictures

    def forward(
        self, sample: Tensor, references: Tensor | None = None, sizes: Sequence[Sequence[int]] = (), **others: Tensor
    ) -> tuple[Tensor]:
        """The prediction. `references` are tokens `[B, S, 4C]` of other pictures, of so many rows and columns each;
        `others` the transformer's arguments: time, texts and their mask.
        """
        height, width = sample.shape[2:]
        parts = [packed(part) for part in sample.chunk(self.pictures, 1)]
        tokens = parts if references is None else [*parts, references]
        own = [(1, height // 2, width // 2)] * self.pictures
        found = self.transformer(
            hidden_states=torch.cat(tokens, 1) if tokens[1:] else tokens[0],
            img_shapes=[[*own, *((1, *size) for size in sizes)]] * len(sample),
            return_dict=False,
            **others,
        )[0]
        return (unpacked(found[:, : parts[0].shape[1]], height, width),)


class PackedFlux2(nn.Module):
    """`Flux2Transformer2DModel` on a latent `[B, C, H, W]`, of which every position is a token; (prediction,).

    Channels beyond those of a latent are latents of pictures that this one refers to.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer
        self.channels = int(transformer.config.in_channels)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        references: Tensor | None = None,
        sizes: Sequence[Sequence[int]] = (),
        cached: Sequence[Sequence[Tensor]] = (),
    ) -> tuple[Tensor]:
        """The prediction; places of tokens are time, row, column and number in a text.

        `references` are tokens `[B, S, C]` of other pictures, of so many rows and columns each; `cached` what the
        method of that name makes of these, in their place.
        """
        _, _, h, w = sample.shape
        pictures = sample.chunk(sample.shape[1] // self.channels, 1)
        tokens = [picture.flatten(2).transpose(1, 2) for picture in pictures]
        grids = [*[(h, w)] * len(pictures), *sizes]
        found = self.transformer(
            hidden_states=torch.cat(tokens if references is None else [*tokens, references], 1),
            encoder_hidden_states=encoder_hidden_states,
            timestep=timestep,
            img_ids=_in_turn(sample.device, grids),
            txt_ids=_places(sample.device, 1, 1, 1, encoder_hidden_states.shape[1]),
            return_dict=False,
            **self._knowing(cached),
        )[0]
        return (found[:, : h * w].transpose(1, 2).unflatten(2, (h, w)),)

    def _knowing(self, cached: Sequence[Sequence[Tensor]]) -> dict[str, Any]:
        """Keys and values of references as arguments of the transformer."""
        if not cached:
            return {}
        net = self.transformer
        kind = diffusers().models.transformers.transformer_flux2.Flux2KVCache
        found = kind(len(net.transformer_blocks), len(net.single_transformer_blocks))
        for layer, rows in zip((*found.double_block_caches, *found.single_block_caches), cached, strict=True):
            layer.store(*(each.view(*each.shape[:2], -1, net.config.attention_head_dim) for each in rows))
        return {"kv_cache": found, "kv_cache_mode": "cached"}

    def cached(self, references: Tensor, sizes: Sequence[Sequence[int]]) -> list[list[Tensor]]:
        """Keys and values `[B, S, heads * d]` of references in every block, where these see themselves alone.

        Neither text nor picture nor time is in them, so a token of zeros stands for each.
        """
        count, device = references.shape[1], references.device
        none = references.new_zeros(len(references), 1, self.transformer.config.joint_attention_dim)
        places = torch.cat([_in_turn(device, [(0, 0), *sizes]), _places(device, 1, 1, 1, 1)])
        found = self.transformer(
            hidden_states=torch.cat([references, torch.zeros_like(references[:, :1])], 1),
            encoder_hidden_states=none,
            timestep=references.new_zeros(len(references)),
            img_ids=places,
            txt_ids=places[-1:],
            kv_cache_mode="extract",
            num_ref_tokens=count,
            return_dict=False,
        )[1]
        layers = (*found.double_block_caches, *found.single_block_caches)
        return [[rows.flatten(2) for rows in layer.get()] for layer in layers]


def _in_turn(device: torch.device, grids: Sequence[Sequence[int]]) -> Tensor:
    """The places of tokens of pictures of FLUX.2, of so many rows and columns each."""
    times = torch.tensor([REFERENCE, 0, 0, 0], device=device)
    return torch.cat([_places(device, 1, *grid, 1) + number * times for number, grid in enumerate(grids)])


def _places(device: torch.device, *sizes: int) -> Tensor:
    """int64 `[N, axes]`: the place of every token of a block."""
    return torch.cartesian_prod(*(torch.arange(n, device=device) for n in sizes))


class PackedZImage(nn.Module):
    """`ZImageTransformer2DModel` on a latent `[B, C, H, W]` and on refined texts (see `refined`); (prediction,).

    The number of words decides where diffusers puts the picture on the axis of time, after them. Here texts of all
    lengths are read, so the picture stays where it is and words end before it: attention depends on distances alone
    (Su et al., "RoFormer", arXiv 2104.09864).
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer, self.side = transformer, int(transformer.config.all_patch_size[0])
        device = transformer.x_pad_token.device
        transformer.rope_embedder(torch.zeros(1, 3, dtype=torch.int32, device=device))  # fills its table

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> tuple[Tensor]:
        """The prediction; the mask `[B, S]` says which rows of the texts there are."""
        net: Any = self.transformer
        patches = f"{self.side}-1"
        b, c, height, width = sample.shape
        h, w = height // self.side, width // self.side
        time = net.t_embedder(timestep * net.t_scale).type_as(sample)
        packed = sample.view(b, c, h, self.side, w, self.side).permute(0, 2, 4, 3, 5, 1)
        x = net.all_x_embedder[patches](packed.reshape(b, h * w, -1))
        words = encoder_hidden_states.shape[1]
        places = self._rotary(words + 1, (1, h, w), sample)
        for layer in net.noise_refiner:
            x = layer(x, None, places, time)
        places = torch.cat([places, self._rotary(1, (words, 1, 1), sample)], 1)
        there = torch.ones(b, h * w, dtype=torch.bool, device=sample.device)
        mask = torch.cat([there, encoder_attention_mask], 1)
        x = torch.cat([x, encoder_hidden_states], 1)
        for layer in net.layers:
            x = layer(x, mask, places, time)
        found = net.all_final_layer[patches](x[:, : h * w], c=time)
        found = found.view(b, h, w, self.side, self.side, c).permute(0, 5, 1, 3, 2, 4)
        return (found.reshape(b, c, height, width),)

    def refined(self, features: Tensor) -> Tensor:
        """A text `[L, C]` as the picture's layers read it, `[P, C]`, padded."""
        net: Any = self.transformer
        rows = net.cap_embedder(features)
        rows = torch.cat([rows, net.cap_pad_token.expand(-len(rows) % PADDED, -1)])[None]
        for layer in net.context_refiner:
            rows = layer(rows, None, self._rotary(1, (rows.shape[1], 1, 1), rows))
        found: Tensor = rows[0]
        return found

    def _rotary(self, first: int, size: tuple[int, int, int], like: Tensor) -> Tensor:
        """The rotation of every token of a block, complex `[1, N, c]`; `first` is the block's place in time."""
        net: Any = self.transformer
        ids = net.create_coordinate_grid(size, (first, 0, 0), like.device)
        found: Tensor = net.rope_embedder(ids.flatten(0, 2))
        return found[None]
