"""What is done for each head by itself: norms, factors, rotary embeddings, means."""

import pytest
import torch
from torch import nn

from support import check_rule, noise

HEADS, WIDTH = 2, 4


def _heads(x):
    """Tokens `[B, S, heads, width]` of a map."""
    return x.flatten(2).transpose(1, 2).unflatten(-1, (HEADS, WIDTH))


def _map(y, x):
    return y.flatten(2).transpose(1, 2).view_as(x)


def _angles(x):
    """An angle for every position and pair `[S, width / 2]`."""
    return torch.arange(x.shape[2] * x.shape[3])[:, None] * torch.tensor([0.3, 0.05])


def _rotary(m, h, x):
    """As in FLUX: neighbours exchanged, one of them negative."""
    cos, sin = (f(_angles(x)).repeat_interleave(2, -1)[None, :, None] for f in (torch.cos, torch.sin))
    real, imaginary = h.reshape(*h.shape[:-1], -1, 2).unbind(-1)
    return h * cos + torch.stack([-imaginary, real], -1).flatten(3) * sin


def _complex(m, h, x):
    """As in Qwen-Image and Z-Image."""
    angles = _angles(x)
    factors = torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.view_as_real(torch.view_as_complex(h.contiguous().unflatten(-1, (-1, 2))) * factors).flatten(3)


CASES = {
    "rms norm": lambda m, h, x: m.rms(h),
    "rms norm by hand": lambda m, h, x: h * torch.rsqrt(h.float().pow(2).mean(-1, keepdim=True) + 1e-6) * m.weight,
    "layer norm": lambda m, h, x: m.layer(h),
    "a mean taken off": lambda m, h, x: h - h.mean(-1, keepdim=True),
    "a factor for each channel": lambda m, h, x: h * m.weight,
    "rotary": _rotary,
    "rotary, as they are": lambda m, h, x: torch.stack(h.unflatten(-1, (-1, 2)).unbind(-1), -1).flatten(3),
    "rotary, complex": _complex,
    "normalised and rotary": lambda m, h, x: _rotary(m, m.rms(h), x),
}


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.rms, self.layer = nn.RMSNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH)
        self.weight = nn.Parameter(noise(WIDTH))


@pytest.mark.parametrize("name", CASES)
def test_by_head(name, batch):
    function = CASES[name]
    check_rule(lambda m, x: _map(function(m.norms, _heads(x), x), x), batch, lambda: {"norms": Norms()}, tolerance=4e-6)


def test_numbers_of_heads_are_not_taken_for_channels(batch):
    """A softmax over the means of heads has no rule, and is right all the same."""

    def function(m, x):
        return _map(_heads(x) * _heads(x).mean(-1).softmax(-1)[..., None], x)

    check_rule(function, batch, local=False, sparse=False, fallbacks=["softmax"], tolerance=4e-6)
