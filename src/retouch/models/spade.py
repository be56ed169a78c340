"""The SPADE generator (GauGAN) and its compressed variant: pictures from maps of semantic labels.

Park et al., "Semantic Image Synthesis with Spatially-Adaptive Normalization" (CVPR 2019, arXiv 1903.07291);
Li et al., "GAN Compression" (CVPR 2020, arXiv 2003.08936). Parameters have the names of the published
checkpoints. Batch norms use their running statistics: the modules are for evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retouch.models import checkpoints
from retouch.models.checkpoints import WeightFileError
from retouch.models.weights import without_init

CITYSCAPES = 35
"""Labels of Cityscapes, "unlabelled" included; the network reads the edges of instances as one more channel."""

COMPRESSED = (32, 32, 32, 48, 32, 24, 24, 32)
"""Channels of the published compressed generator: first layer, then one number for each block."""

BLOCKS = ("head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3")
SHRINKS = {"up_0": 8, "up_1": 4, "up_2": 2, "up_3": 1}


@dataclass(frozen=True)
class Widths:
    """Channels of one block: what it reads, between its convolutions, what it makes, and of its label branch.

    shortcut: the skip connection has a convolution.
    """

    inputs: int
    middle: int
    outputs: int
    hidden: int
    shortcut: bool


class Separable(nn.Module):
    """A 3x3 depthwise convolution, instance norm, a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs),
            nn.InstanceNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W]."""
        result: Tensor = self.conv(x)
        return result


class Spade(nn.Module):
    """Spatially adaptive normalisation: scale and shift of every pixel come from the labels (section 3)."""

    def __init__(self, channels: int, labels: int, hidden: int, separable: bool) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(labels, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = Separable(hidden, channels) if separable else nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = Separable(hidden, channels) if separable else nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """x [B, channels, h, w], labels [B, labels, H, W] -> [B, channels, h, w]."""
        seen = self.mlp_shared(F.interpolate(labels, size=x.shape[2:], mode="nearest"))
        result: Tensor = self.param_free_norm(x) * (1 + self.mlp_gamma(seen)) + self.mlp_beta(seen)
        return result


class SpadeBlock(nn.Module):
    """A residual block with spatially adaptive normalisation."""

    def __init__(self, widths: Widths, labels: int, separable: bool) -> None:
        super().__init__()
        self.conv_0 = nn.Conv2d(widths.inputs, widths.middle, 3, padding=1)
        self.conv_1 = nn.Conv2d(widths.middle, widths.outputs, 3, padding=1)
        self.norm_0 = Spade(widths.inputs, labels, widths.hidden, separable)
        self.norm_1 = Spade(widths.middle, labels, widths.hidden, separable)
        self.shortcut = widths.shortcut
        if self.shortcut:
            self.conv_s = nn.Conv2d(widths.inputs, widths.outputs, 1, bias=False)
            self.norm_s = Spade(widths.inputs, labels, widths.hidden, separable)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """x [B, inputs, h, w], labels [B, labels, H, W] -> [B, outputs, h, w]."""
        inner = self.conv_0(F.leaky_relu(self.norm_0(x, labels), 0.2))
        inner = self.conv_1(F.leaky_relu(self.norm_1(inner, labels), 0.2))
        skipped = self.conv_s(self.norm_s(x, labels)) if self.shortcut else x
        result: Tensor = skipped + inner
        return result


class SpadeGenerator(nn.Module):
    """[B, labels, H, W] -> [B, 3, H, W] in [-1, 1].

    widths: one for each of `BLOCKS`. upsamplings: 6 ("more" in the published code) or 5 ("normal"). H and W
    are multiples of 2 ** upsamplings.
    """

    def __init__(self, widths: Sequence[Widths], labels: int, upsamplings: int = 6, separable: bool = False) -> None:
        super().__init__()
        if upsamplings not in (5, 6) or len(widths) != len(BLOCKS):
            raise ValueError(f"{upsamplings} upsamplings and {len(widths)} blocks; there are 5 or 6, and {len(BLOCKS)}")
        self.labels, self.upsamplings = labels, upsamplings
        self.fc = nn.Conv2d(labels, widths[0].inputs, 3, padding=1)
        for name, each in zip(BLOCKS, widths, strict=True):
            self.add_module(name, SpadeBlock(each, labels, separable))
        self.conv_img = nn.Conv2d(widths[-1].outputs, 3, 3, padding=1)

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this many pixels."""
        return int(2**self.upsamplings)

    def forward(self, labels: Tensor) -> Tensor:
        """[B, labels, H, W] -> [B, 3, H, W]."""
        height, width = labels.shape[2:]
        x = self.fc(F.interpolate(labels, size=(height // self.multiple, width // self.multiple), mode="nearest"))
        for name in BLOCKS:
            if name not in ("head_0", "G_middle_1") or (name == "G_middle_1" and self.upsamplings == 6):
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = self.get_submodule(name)(x, labels)
        return torch.tanh(self.conv_img(F.leaky_relu(x, 0.2)))


def spade(width: int = 64, labels: int = CITYSCAPES + 1, upsamplings: int = 6) -> SpadeGenerator:
    """The published generator; its parameter `ngf` is `width`."""
    sizes = [16, 16, 16, 16, 8, 4, 2, 1]
    widths = [Widths(a * width, min(a, b) * width, b * width, 2 * width, a != b) for a, b in pairwise(sizes)]
    return SpadeGenerator(widths, labels, upsamplings)


def compressed(
    channels: Sequence[int] = COMPRESSED, labels: int = CITYSCAPES + 1, upsamplings: int = 6
) -> SpadeGenerator:
    """The generator of GAN Compression with the published numbers of channels, or others of that form."""
    if len(channels) != len(BLOCKS) + 1:
        raise ValueError(f"{len(channels)} numbers of channels; there are {len(BLOCKS) + 1}")
    inputs, widths = 16 * channels[0], []
    for name, channel in zip(BLOCKS, channels[1:], strict=True):
        middle = channel * SHRINKS.get(name, 16)
        outputs = middle if name in SHRINKS else inputs
        widths.append(Widths(inputs, middle, outputs, 2 * channel, name in SHRINKS))
        inputs = outputs
    return SpadeGenerator(widths, labels, upsamplings, separable=True)


def from_checkpoint(file: Path, upsamplings: int = 6) -> SpadeGenerator:
    """The generator in a published checkpoint, compressed or not; its sizes are read off the tensors.

    Raises WeightFileError when it is none, naming what is missing, extra or misshapen.
    """
    state = checkpoints.folded(checkpoints.read(file))
    try:
        labels = _sizes(state, "fc.weight")[1]
        widths = [_widths(state, name) for name in BLOCKS]
    except KeyError as error:
        raise WeightFileError(f"{file} holds no SPADE generator: {error} is missing or misshapen") from error
    separable = "head_0.norm_0.mlp_gamma.conv.0.weight" in state
    with without_init():
        module = SpadeGenerator(widths, labels, upsamplings, separable)
    checkpoints.fill(module, state)
    return module.eval().requires_grad_(False)


def _sizes(state: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """Outputs and inputs of a convolution; KeyError when it is missing or none."""
    kernel = state[name]
    if kernel.dim() != 4 or 0 in kernel.shape:
        raise KeyError(name)
    return kernel.shape[0], kernel.shape[1]


def _widths(state: Mapping[str, Tensor], block: str) -> Widths:
    middle, inputs = _sizes(state, f"{block}.conv_0.weight")
    outputs, _ = _sizes(state, f"{block}.conv_1.weight")
    hidden, _ = _sizes(state, f"{block}.norm_0.mlp_shared.0.weight")
    return Widths(inputs, middle, outputs, hidden, f"{block}.conv_s.weight" in state)


def semantics(labels: Tensor, count: int, instances: Tensor | None = None) -> Tensor:
    """What the generator reads, float32 [1, count + 1, H, W]: one-hot labels, and the edges of instances.

    labels: integers [H, W] below `count`. instances: integers [H, W]; None: every area of one label is one.
    """
    found = torch.zeros(1, count + 1, *labels.shape, dtype=torch.float32)
    found[:, :count].scatter_(1, labels.long()[None, None], 1)
    found[:, count] = edges(labels if instances is None else instances)
    return found


def edges(ids: Tensor) -> Tensor:
    """bool [H, W]: where a neighbour has another id; ids are integers [H, W]."""
    found = torch.zeros(ids.shape, dtype=torch.bool)
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    for part, differs in ((found[:, 1:], across), (found[:, :-1], across), (found[1:], down), (found[:-1], down)):
        part |= differs
    return found


def for_benchmark(tiny: bool = False) -> nn.Module:
    """GauGAN for Cityscapes at 256x512; `tiny` has width 4 and five labels."""
    return spade(4, 6) if tiny else spade()


def compressed_for_benchmark(tiny: bool = False) -> nn.Module:
    """Its compressed generator; `tiny` has at most 48 channels and five labels."""
    return compressed((3, 2, 2, 3, 2, 3, 2, 4), 6) if tiny else compressed()
