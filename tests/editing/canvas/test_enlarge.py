"""What enlarges results: the choice, and that tiles show no seams."""

import numpy as np
import pytest
import torch

from retouch import ExtraError, OptionError, Upscaler
from retouch.editing.canvas import enlarge
from retouch.editing.gan import upscaler as upscaling
from retouch.models.super_resolution import SRVGG

CPU = torch.device("cpu")


def missing(file):
    raise ExtraError("the weights are not there")


def test_the_choice(monkeypatch):
    monkeypatch.setattr(enlarge, "weight_file", lambda file: file)
    assert enlarge.enlarger_of("lanczos", CPU) is None
    assert enlarge.name_of(enlarge.enlarger_of("auto", torch.device("cuda"))) == "builtin/realesrgan-x4"
    assert enlarge.name_of(enlarge.enlarger_of("auto", CPU)) == "lanczos"
    anime = "builtin/realesr-animevideov3-x4"
    assert enlarge.name_of(enlarge.enlarger_of(anime, CPU)) == anime
    with pytest.raises(OptionError, match=r"unknown enlarger 'best'; choose from auto, lanczos, builtin/realesrgan-x4"):
        enlarge.enlarger_of("best", CPU)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(enlarge, "weight_file", missing)
    assert enlarge.name_of(enlarge.enlarger_of("auto", torch.device("cuda"))) == "lanczos"
    with pytest.raises(ExtraError):
        enlarge.enlarger_of("builtin/realesrgan-x4", CPU)


def test_tiles_are_as_the_whole(monkeypatch):
    torch.manual_seed(0)
    upscaler = Upscaler(SRVGG(3, 8).requires_grad_(False), policy="exact")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 41, 3), np.uint8)
    whole = upscaler.enlarge(pixels)
    assert whole.shape == (200, 164, 3)
    session = upscaler.open(pixels)
    assert np.abs(whole.astype(int) - session.pixels).max() <= 1
    monkeypatch.setattr(upscaling, "TILE", 16)
    assert np.abs(upscaler.enlarge(pixels).astype(int) - whole).max() <= 1
