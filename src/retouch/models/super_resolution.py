"""The generators of Real-ESRGAN: RRDBNet and the compact SRVGG. Four times as many pixels, no normalisation.

Wang et al., "ESRGAN" (arXiv 1809.00219) and "Real-ESRGAN" (arXiv 2107.10833). Both read and return RGB in
[0, 1].
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE = 4


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class DenseBlock(nn.Module):
    """Five convolutions, each of which reads the block's input and the results of those before it."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(width + i * growth, growth if i < 4 else width) for i in range(5))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> the same shape."""
        *inner, last = self.convs
        known = [x]
        for conv in inner:
            known.append(F.leaky_relu(conv(torch.cat(known, 1)), 0.2))
        result: Tensor = x + 0.2 * last(torch.cat(known, 1))
        return result


class RRDB(nn.Module):
    """Three dense blocks in a residual one."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(width, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> the same shape."""
        result: Tensor = x + 0.2 * self.blocks(x)
        return result


class RRDBNet(nn.Module):
    """[B, 3, H, W] -> [B, 3, 4H, 4W]. Real-ESRGAN x4plus has 23 blocks, its anime variant 6."""

    def __init__(self, blocks: int = 23, width: int = 64, growth: int = 32) -> None:
        super().__init__()
        self.first = _conv(3, width)
        self.body = nn.Sequential(*(RRDB(width, growth) for _ in range(blocks)), _conv(width, width))
        self.up = nn.ModuleList(_conv(width, width) for _ in range(2))
        self.hr = _conv(width, width)
        self.last = _conv(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 3, 4H, 4W]."""
        first = self.first(x)
        grown = first + self.body(first)
        for up in self.up:
            grown = F.leaky_relu(up(F.interpolate(grown, scale_factor=2, mode="nearest")), 0.2)
        result: Tensor = self.last(F.leaky_relu(self.hr(grown), 0.2))
        return result


class SRVGG(nn.Module):
    """[B, 3, H, W] -> [B, 3, 4H, 4W]: a stack of convolutions on the small grid, shuffled to the large one.

    An edit reaches `depth` + 2 pixels. Real-ESRGAN's animevideov3 has a depth of 16.
    """

    def __init__(self, depth: int = 16, width: int = 64) -> None:
        super().__init__()
        widths = [3, *[width] * (depth + 1)]
        layers = [layer for a, b in pairwise(widths) for layer in (_conv(a, b), nn.PReLU(b))]
        self.body = nn.Sequential(*layers, _conv(width, 3 * SCALE**2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 3, 4H, 4W]."""
        grown = F.pixel_shuffle(self.body(x), SCALE)
        return grown + F.interpolate(x, scale_factor=SCALE, mode="nearest")


def rrdbnet(tiny: bool = False) -> nn.Module:
    """Real-ESRGAN x4plus; `tiny` has two blocks of width 8."""
    return RRDBNet(2, 8, 4) if tiny else RRDBNet()


def srvgg(tiny: bool = False) -> nn.Module:
    """Real-ESRGAN animevideov3; `tiny` has a depth of 3 and width 8."""
    return SRVGG(3, 8) if tiny else SRVGG()
