"""Views, transposes, slices, concatenations and moves between channels and positions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import retouch
from support import around, check, check_rule, compile_all, edit, noise, spot


def _shuffled(x, groups=2):
    """ShuffleNet's channel shuffle."""
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def _unpatchify(x, order="nhwpqc->nchpwq"):
    b, c, h, w = x.shape
    tokens = x.flatten(2).transpose(1, 2)
    patches = torch.einsum(order, tokens.reshape(b, h, w, 2, 2, c // 4))
    return patches.reshape(b, c // 4, 2 * h, 2 * w)


def _unpatchify_by_permute(x):
    b, c, h, w = x.shape
    tokens = x.permute(0, 2, 3, 1).reshape(b, h, w, 2, 2, c // 4)
    return tokens.permute(0, 5, 1, 3, 2, 4).reshape(b, c // 4, 2 * h, 2 * w)


def _patchify(x, order=(0, 2, 4, 1, 3, 5)):
    b, c, h, w = x.shape
    patches = x.view(b, c, h // 2, 2, w // 2, 2).permute(order)
    tokens = patches.reshape(b, h * w // 4, 4 * c)
    return tokens.transpose(1, 2).reshape(b, 4 * c, h // 2, w // 2)


def _heads(x):
    """To (B, heads, H*W, d) and back."""
    b, c, h, w = x.shape
    heads = x.permute(0, 2, 3, 1).reshape(b, h * w, 2, c // 2).transpose(1, 2)
    return (heads * 2).transpose(1, 2).reshape(b, h * w, c).transpose(1, 2).reshape(x.shape)


def _stacked_heads(x):
    """To (B * heads, H*W, d), as older attention processors do, and back."""
    b, c, h, w = x.shape
    heads = x.flatten(2).transpose(1, 2).reshape(b, h * w, 2, c // 2)
    heads = heads.permute(0, 2, 1, 3).reshape(2 * b, h * w, c // 2) + 1
    back = heads.reshape(b, 2, h * w, c // 2).permute(0, 2, 1, 3).reshape(b, h * w, c)
    return back.permute(0, 2, 1).view(b, c, h, w)


CASES = {
    "tokens and back": lambda m, x: (x.flatten(2).transpose(1, 2) * 2).mT.reshape(x.shape),
    "channels last and back": lambda m, x: (x.permute(0, 2, 3, 1) + 1).permute(0, 3, 1, 2),
    "movedim": lambda m, x: (x.movedim(1, -1) + 1).movedim(-1, 1),
    "heads": lambda m, x: _heads(x),
    "stacked heads": lambda m, x: _stacked_heads(x),
    "unsqueeze, squeeze": lambda m, x: (x.unsqueeze(2) * 2).squeeze(2),
    "unflatten": lambda m, x: (x.unflatten(1, (4, 2)) + 1).flatten(1, 2),
    "chunk": lambda m, x: x.chunk(2, 1)[1],
    "chunks combined": lambda m, x: x.chunk(4, 1)[2] * x.chunk(4, 1)[0] - x.chunk(4, 1)[3],
    "split": lambda m, x: torch.cat(x.split([1, 5, 2], 1)[::-1], 1),
    "split in equal parts": lambda m, x: x.split(3, 1)[2] * 2,
    "split of a split": lambda m, x: x.chunk(2, 1)[1].chunk(2, 1)[1] * 2,
    "slice": lambda m, x: x[:, 3:5],
    "slice from the end": lambda m, x: x[:, -3:] * x[:, :3],
    "slice of the last": lambda m, x: x.permute(0, 2, 3, 1)[..., 2:7].permute(0, 3, 1, 2),
    "narrow": lambda m, x: x.narrow(1, 2, 4),
    "slice, activation, norm of rows": lambda m, x: F.layer_norm(F.silu(x[:, 2:6]).permute(0, 2, 3, 1), (4,)).permute(
        0, 3, 1, 2
    ),
    "cat": lambda m, x: torch.cat([x, x * 2], 1),
    "cat of itself": lambda m, x: torch.cat([x, x], 1),
    "cat of three": lambda m, x: torch.cat([F.silu(x), x[:, :3], torch.tanh(x[:, 1:])], 1),
    "nested cat": lambda m, x: torch.cat([torch.cat([x, x + 1], 1), x[:, :1]], 1),
    "cat, then activation": lambda m, x: F.silu(torch.cat([x, m.op(x)], 1) + 1),
    "cat, then slice": lambda m, x: torch.cat([x, m.op(x)], 1)[:, 5:11],
    "cat with a mean": lambda m, x: torch.cat([x, x.mean(1, keepdim=True)], 1),
    "cat with a mean before": lambda m, x: torch.cat([x.mean(1, keepdim=True), x], 1),
    "cat of tokens": lambda m, x: torch.cat([x.flatten(2).mT, m.op(x).flatten(2).mT], 2).mT.unflatten(2, x.shape[2:]),
    "dense blocks": lambda m, x: torch.cat([x, m.op(x), m.op(m.op(x) * 2)], 1),
    "crop": lambda m, x: x[:, :, 1:-3, 2:],
    "strided crop": lambda m, x: x[:, :, 1::2, ::3],
    "focus": lambda m, x: torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1),
    "flip": lambda m, x: x.flip(3),
    "flip both": lambda m, x: x.flip((2, -1)) + x,
    "flip of the second and third": lambda m, x: x.permute(0, 2, 3, 1).flip((1, 2)).permute(0, 3, 1, 2),
    "crop of the second": lambda m, x: x.permute(0, 2, 3, 1)[:, 2:-3, 1::2].permute(0, 3, 1, 2),
    "crop between tokens": lambda m, x: x.flatten(2).unflatten(2, (16, 12))[:, :, 3:] * 2,
    "row": lambda m, x: (x[:, :, 3] * 2)[:, :, None],
    "rows put together": lambda m, x: (torch.stack([x[..., 2], x[..., 5]], 3) + 1).select(3, 1)[..., None],
    "unbound rows": lambda m, x: (x[:, :, :3].unbind(2)[1] + x.select(2, -1))[:, :, None],
    "unbound channels": lambda m, x: torch.stack(x.unflatten(1, (4, 2)).unbind(1)[::-1], 1).flatten(1, 2)[:, :3] * 2,
    "one sample": lambda m, x: (x[:, None] * 2)[:, 0],
    "stack": lambda m, x: torch.stack([x, x * 2], 1).flatten(1, 2) + 1,
    "stack, summed": lambda m, x: torch.stack([x, F.silu(x), m.op(x)], 1).unbind(1)[2] + x,
    "stack in the middle": lambda m, x: torch.stack([x, x * 2], 2)[:, :, 1] + 1,
    "stack of one channel": lambda m, x: torch.stack([x[:, 0], x[:, 3]], 1) * 2,
    "stack of one": lambda m, x: torch.stack([x], 1).flatten(1, 2) * 2,
    "repeated positions": lambda m, x: x.repeat_interleave(2, 2).repeat_interleave(3, dim=3),
    "repeated positions, convolved": lambda m, x: m.op(F.silu(x).repeat_interleave(2, -1)),
    "repeated channels": lambda m, x: x[:, :4].repeat_interleave(2, 1) + x,
    "repeated channel": lambda m, x: x[:, :1].repeat_interleave(8, 1) + x,
    "many channels repeated": lambda m, x: torch.cat([x, m.op(x), x], 1).repeat_interleave(5, 1) * 2,
    "tiled": lambda m, x: x.repeat(1, 2, 1, 3),
    "tiled, another name": lambda m, x: x[:, :1].tile(8, 1, 1) * m.op(x),
    "rolled": lambda m, x: m.op(x.roll((2, -3), (2, 3))),
    "rolled and back": lambda m, x: m.op(x.roll((2, 1), (-1, -2))).roll((-2, -1), (-1, -2)),
    "rolled, channels last": lambda m, x: x.permute(0, 2, 3, 1).roll((-3, -3), (1, 2)).permute(0, 3, 1, 2) * 2,
    "rolled channels": lambda m, x: x.roll(3, 1) + x.roll(8, 1) + x.roll((1, 1, -2), (1, 2, 1)),
    "pixel shuffle": lambda m, x: F.pixel_shuffle(x, 2),
    "pixel shuffle of an activation": lambda m, x: F.pixel_shuffle(F.relu(m.op(x)), 2) * 2,
    "pixel unshuffle": lambda m, x: F.pixel_unshuffle(x, 2),
    "pixel unshuffle and back": lambda m, x: F.pixel_shuffle(F.pixel_unshuffle(x, 2) * 2, 2),
    "unpatchify by einsum": lambda m, x: _unpatchify(x),
    "unpatchify by permute": lambda m, x: _unpatchify_by_permute(x),
    "patchify": lambda m, x: _patchify(x),
    "patchify, channels last": lambda m, x: _patchify(x, (0, 2, 4, 3, 5, 1)),
    "channels to one": lambda m, x: F.pixel_shuffle(x[:, :4], 2),
}


@pytest.mark.parametrize("name", CASES)
def test_views(name, batch):
    check_rule(CASES[name], batch, lambda: {"op": nn.Conv2d(8, 8, 3, padding=1)})


SHUFFLED = {
    "alone": lambda m, x: _shuffled(x) + 0.5,
    "twice": lambda m, x: _shuffled(_shuffled(x), 4) * 2,
    "chunk": lambda m, x: _shuffled(x).chunk(2, 1)[0] * 2,
    "slice": lambda m, x: _shuffled(x)[:, 1:4],
    "cat": lambda m, x: torch.cat([_shuffled(x), x], 1),
    "convolution": lambda m, x: m.conv(_shuffled(x)),
    "vector": lambda m, x: _shuffled(x) * m.norm.weight[:, None, None],
    "group norm": lambda m, x: m.norm(_shuffled(x)),
    "batch norm": lambda m, x: m.batch(_shuffled(x)),
    "layer norm": lambda m, x: m.layer(_shuffled(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "linear": lambda m, x: m.linear(_shuffled(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "prelu": lambda m, x: m.prelu(_shuffled(x)),
    "mean": lambda m, x: _shuffled(x) - _shuffled(x).mean(1, keepdim=True),
    "pixel shuffle": lambda m, x: F.pixel_shuffle(_shuffled(x), 2),
    "attention": lambda m, x: F.scaled_dot_product_attention(
        *[_shuffled(x).flatten(2).transpose(1, 2)] * 2, x.flatten(2).transpose(1, 2)
    ).transpose(1, 2).reshape(x.shape),
}  # fmt: skip


@pytest.mark.parametrize("name", SHUFFLED)
def test_channels_in_another_order_are_never_taken_as_in_order(name, batch):
    """By a rule or densely: the order of the channels is part of the result."""
    module = around(lambda m, x: SHUFFLED[name](m.parts, x), lambda: {"parts": _Parts()},
                    tail=batch > 1)  # fmt: skip
    x = noise(batch, 3, 16, 12, seed=1)
    net = retouch.compile(module, (x,), backend="reference", policy="exact")
    names = [f.split(":")[0] for f in net.explain().fallbacks]
    check(module, (x,), [spot(16, 12)], local=False, sparse=False, fallbacks=names, tolerance=4e-6)


class _Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)
        self.norm, self.batch, self.layer = nn.GroupNorm(2, 8), nn.BatchNorm2d(8), nn.LayerNorm(8)
        self.prelu = nn.PReLU(8)


def _stacked_rows(x):
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w).permute(0, 1, 3, 2, 4).reshape(b, 2 * c, h // 2, w)


DENSE = {
    "channels of one axis": lambda m, x: _stacked_rows(x),
    "height and width swapped": lambda m, x: x.transpose(2, 3),
    "samples as channels": lambda m, x: x.reshape(1, -1, *x.shape[2:]),
    "channels as samples": lambda m, x: x.reshape(-1, 1, *x.shape[2:]),
    "one channel unshuffled": lambda m, x: F.pixel_unshuffle(x[:, :1], 2),
    "samples rolled": lambda m, x: x.roll(1, 0),
    "everything rolled": lambda m, x: x.roll(5),
    "everything repeated": lambda m, x: x.repeat_interleave(2)[: x.numel()].view(x.shape),
    "windows": lambda m, x: x.view(x.shape[0], 8, 4, 4, 3, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 8, 4, 4),
}


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("then", ["returned", "convolved", "scaled"])
def test_arrangements_without_rows_are_right_all_the_same(name, then, batch):
    """Layouts that rows cannot express, returned or read by another operation."""
    width = around(DENSE[name])(noise(batch, 3, 16, 12)).shape[1]
    function = {
        "returned": DENSE[name],
        "convolved": lambda m, x: m.op(DENSE[name](m, x)),
        "scaled": lambda m, x: DENSE[name](m, x) * m.op.bias.view(-1, 1, 1),
    }[then]
    parts = {"op": nn.Conv2d(width, width, 3, padding=1)}
    module = around(function, lambda: parts)
    x = noise(batch, 3, 16, 12, seed=1)
    net = retouch.compile(module, (x,), backend="reference", policy="exact")
    names = [f.split(":")[0] for f in net.explain().fallbacks]
    check(module, (x,), [spot(16, 12)], local=False, sparse=False, fallbacks=names)


EMPTY = {
    "rest of one channel": lambda m, x: torch.cat([x[:, :1], x[:, :1][:, 1:] * 2, x[:, 1:]], 1),
    "returned": lambda m, x: x[:, :1][:, 1:],
    "no positions": lambda m, x: torch.cat([x, x[:, :, 16:]], 2),
}


@pytest.mark.parametrize("name", EMPTY)
def test_slices_of_nothing(name, batch):
    module = around(EMPTY[name])
    x, mask = noise(batch, 3, 16, 12, seed=1), spot(16, 12)
    edited = edit(x, mask)
    for net in compile_all(module, (x,)):
        y, recording = net.record(x)
        updated = net.update(recording, retouch.Region.from_mask(mask), edited)
        for found, given in ((y, x), (updated, edited)):
            assert torch.allclose(found, module(given), atol=1e-5)
            assert found.shape == module(given).shape


class Map(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("map", torch.ones(1, 8, 16, 12))


IN_ORDER = {
    "view": lambda m, x: torch.stack([x, m.op.map.expand_as(x)], 2).flatten(1, 2),
    "view of an expanded map": lambda m, x: (
        torch.atan(x[:, None]).expand(-1, 3, -1, -1, -1).flatten(2, 3).flatten(1, 2)
    ),
    "memory": lambda m, x: x.as_strided((x.shape[0], 4, 8), (8 * 192, 192, 1), 5),
    "complex": lambda m, x: torch.view_as_real(torch.view_as_complex(x.unflatten(3, (6, 2))) * 1j).flatten(3),
    "bits": lambda m, x: x.view(torch.int32).bitwise_and(-256).view(torch.float32),
}


@pytest.mark.parametrize("name", IN_ORDER)
def test_operations_on_memory_in_order(name, batch):
    """What runs densely gets the strides that it was captured with, where it depends on them."""
    x, mask = noise(batch, 3, 16, 12, seed=1), spot(16, 12)
    module = around(IN_ORDER[name], lambda: {"op": Map()})
    check(module, (x,), [mask], local=False, sparse=False, fallbacks=None, tolerance=1e-4 if name == "bits" else 2e-6)


def test_samples_joined_in_a_batch():
    """Classifier-free guidance within the module: one image, two samples."""
    module = around(lambda m, x: m.op(torch.cat([x, x * 2], 0)), lambda: {
        "op": nn.Conv2d(8, 8, 3, padding=1)
    })  # fmt: skip
    check(module, (noise(1, 3, 16, 12),), [spot(16, 12)], local=False, sparse=False,
          fallbacks=["cat"])  # fmt: skip
