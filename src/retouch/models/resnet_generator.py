"""The ResNet image-to-image generator of Johnson et al. (2016) and CycleGAN (2017)."""

from __future__ import annotations

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two reflection-padded 3x3 convolutions with instance norm; adds its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        result: Tensor = x + self.body(x)
        return result


class ResnetGenerator(nn.Module):
    """c7s1-k, d2k, d4k, `blocks` x R4k, u2k, uk, c7s1-3: [B, 3, H, W] -> the same, in [-1, 1].

    H and W are multiples of 4. At 256x256 the papers use 9 blocks and k = 64.
    """

    def __init__(self, width: int = 64, blocks: int = 9) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, width, 7),
            *_norm_act(width),
            *_down(width),
            *_down(2 * width),
            *(ResidualBlock(4 * width) for _ in range(blocks)),
            *_up(4 * width),
            *_up(2 * width),
            nn.ReflectionPad2d(3),
            nn.Conv2d(width, 3, 7),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 3, H, W]."""
        result: Tensor = self.layers(x)
        return result


def for_benchmark(tiny: bool = False) -> nn.Module:
    """The 256x256 generator of the papers; `tiny` has two blocks and eight channels."""
    return ResnetGenerator(8, 2) if tiny else ResnetGenerator()


def _norm_act(channels: int) -> tuple[nn.Module, ...]:
    return nn.InstanceNorm2d(channels), nn.ReLU()


def _down(channels: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
    return conv, *_norm_act(2 * channels)


def _up(channels: int) -> tuple[nn.Module, ...]:
    half = channels // 2
    conv = nn.ConvTranspose2d(channels, half, 3, stride=2, padding=1, output_padding=1)
    return conv, *_norm_act(half)
