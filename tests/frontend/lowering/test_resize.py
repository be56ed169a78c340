"""Interpolation and pooling."""

import pytest
import torch.nn.functional as F
from torch import nn

from support import check_rule


def _resize(**options):
    return lambda m, x: F.interpolate(x, **options)


PADDED = {
    "ones": lambda m, x: F.pad(x, (1, 0, 2, 1), value=1.0),
    "convolved": lambda m, x: m.conv(F.pad(F.silu(x), (1, 1, 1, 1), value=-0.7)),
    "cropped on one side": lambda m, x: m.conv(F.pad(x, (2, -1, -2, 1), value=3.0)),
    "least": lambda m, x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=float("-inf")), 3, 1),
    "channels last": lambda m, x: F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 2, 0, 1), value=0.5).permute(0, 3, 1, 2),
    "zeros, channels last": lambda m, x: F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 2)).permute(0, 3, 1, 2),
    "circular": lambda m, x: m.conv(F.pad(x, (1, 2, 3, 1), mode="circular")),
    "module": lambda m, x: nn.ConstantPad2d(2, 0.25)(x) * 2,
}


@pytest.mark.parametrize("name", PADDED)
def test_padding(name, batch):
    check_rule(PADDED[name], batch, lambda: {"conv": nn.Conv2d(8, 8, 3, padding=1)})


CASES = {
    "nearest 2": _resize(scale_factor=2.0),
    "nearest 3, 2": _resize(scale_factor=(3.0, 2.0)),
    "nearest 1.5": _resize(scale_factor=1.5),
    "nearest 0.5": _resize(scale_factor=0.5),
    "nearest 0.7": _resize(scale_factor=0.7),
    "nearest size": _resize(size=(23, 7)),
    "nearest size 5": _resize(size=5),
    "nearest, scale recomputed": _resize(scale_factor=1.3, recompute_scale_factor=True),
    "nearest, then convolution": lambda m, x: m.conv(F.interpolate(F.silu(x), scale_factor=2.0)),
    "nearest twice": lambda m, x: m.conv(F.interpolate(F.interpolate(x, size=5), size=17)),
    "nearest of a padded map": lambda m, x: F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2.0),
    "nearest, then an offset": lambda m, x: m.conv(F.pad(F.interpolate(x, size=9), (2, 2, 2, 2)) + 1),
    "nearest exact 2": _resize(scale_factor=2.0, mode="nearest-exact"),
    "nearest exact 0.7": _resize(scale_factor=0.7, mode="nearest-exact"),
    "nearest exact size": _resize(size=(23, 7), mode="nearest-exact"),
    "bilinear 2": _resize(scale_factor=2.0, mode="bilinear"),
    "bilinear 2, aligned": _resize(scale_factor=2.0, mode="bilinear", align_corners=True),
    "bilinear 0.5": _resize(scale_factor=0.5, mode="bilinear"),
    "bilinear 1.7": _resize(scale_factor=1.7, mode="bilinear"),
    "bilinear size": _resize(size=(9, 31), mode="bilinear"),
    "bilinear size, aligned": _resize(size=(9, 31), mode="bilinear", align_corners=True),
    "bilinear size 1, aligned": _resize(size=(1, 5), mode="bilinear", align_corners=True),
    "bicubic 2": _resize(scale_factor=2.0, mode="bicubic"),
    "bicubic size": _resize(size=(11, 25), mode="bicubic"),
    "bicubic aligned": _resize(size=(11, 25), mode="bicubic", align_corners=True),
    "bilinear of a nearest": lambda m, x: F.interpolate(
        F.interpolate(x, scale_factor=2.0), size=(13, 17), mode="bilinear"
    ),
    "average": lambda m, x: F.avg_pool2d(x, 2),
    "average overlapping": lambda m, x: F.avg_pool2d(x, 3, 1, 1),
    "average, padding not counted": lambda m, x: F.avg_pool2d(x, 3, 2, 1, False, False),
    "average (2, 3)": lambda m, x: F.avg_pool2d(x, (2, 3), (2, 1)),
    "average of a padded map": lambda m, x: F.avg_pool2d(F.pad(x + 1, (1, 2, 1, 2)), 3),
    "maximum": lambda m, x: F.max_pool2d(x, 2),
    "maximum overlapping": lambda m, x: F.max_pool2d(x, 3, 2, 1),
    "maximum dilated": lambda m, x: F.max_pool2d(x, 3, 1, 1, dilation=2),
    "maximum of a nearest": lambda m, x: F.max_pool2d(F.interpolate(x, scale_factor=2.0), 3, 2, 1),
    "maximum of a padded map": lambda m, x: F.max_pool2d(F.pad(-1 - x.abs(), (1, 1, 1, 1)), 3, 2),
    "maximum of a padded, cropped map": lambda m, x: F.max_pool2d(
        F.pad(-1 - x.abs(), (2, 2, 2, 2))[:, :, 1:, 1:], 3, 2
    ),
    "maximum of a padded activation": lambda m, x: F.max_pool2d(
        F.pad(-1 - x.abs(), (1, 1, 1, 1)) * 2, 3, 2
    ),
    "adaptive average": lambda m, x: F.adaptive_avg_pool2d(x, (4, 3)),
    "adaptive average, uneven": lambda m, x: F.adaptive_avg_pool2d(x, (5, 7)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_resizing_and_pooling(name, batch):
    check_rule(CASES[name], batch, lambda: {"conv": nn.Conv2d(8, 8, 3, padding=1)}, tolerance=4e-6)


DENSE = {
    "rounded-up size": (lambda m, x: F.avg_pool2d(x, 5, 3, ceil_mode=True), "avg_pool2d"),
    "own divisor": (lambda m, x: F.avg_pool2d(x, 2, divisor_override=3), "avg_pool2d"),
    "antialiased": (
        _resize(scale_factor=0.5, mode="bilinear", antialias=True), "_upsample_bilinear2d_aa",
    ),
    "adaptive maximum": (lambda m, x: F.adaptive_max_pool2d(x, (4, 3)), "adaptive_max_pool2d"),
    "padding of channels": (lambda m, x: F.pad(x, (0, 0, 0, 0, 1, 1)), "pad"),
}  # fmt: skip


@pytest.mark.parametrize("name", DENSE)
def test_what_has_no_rule_runs_densely(name, batch):
    function, fallback = DENSE[name]
    check_rule(function, batch, local=False, sparse=False, fallbacks=[fallback], tolerance=4e-6)
