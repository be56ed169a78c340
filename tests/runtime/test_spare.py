"""Weights once: a module whose parameters lie in a file is the module that it was."""

import copy
import io

import pytest
import torch
from torch import nn

import retouch
from retouch import FallbackWarning, Region, WeightsChangedError
from retouch.runtime import spare
from retouch.runtime.spare import spare_memory
from support import fill, noise


class Tied(nn.Module):
    """Convolutions of which two share their weights, one is channels-last, and one is small."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.c, self.d = nn.Conv2d(64, 96, 3, padding=1), nn.Conv2d(96, 4, 1)
        self.b.weight = self.a.weight
        self.c.to(memory_format=torch.channels_last)
        self.register_buffer("table", torch.arange(20_000)[3:])

    def forward(self, x):
        return self.d(self.c(self.b(self.a(x)).relu()))


def module():
    return fill(Tied())


def in_file(tensor):
    return tensor.untyped_storage().filename is not None


def test_parameters_are_the_same_in_a_file(tmp_path):
    made, x = module(), noise(1, 64, 12, 12)
    before, expected = copy.deepcopy(made.state_dict()), made(x)
    strides = {name: tensor.stride() for name, tensor in made.state_dict().items()}
    moved = spare_memory(made, tmp_path)
    assert moved >= sum(t.nbytes for t in (made.a.weight, made.c.weight, made.table))
    assert not list(tmp_path.iterdir())  # it has no name any more
    assert all(in_file(t) for t in (made.a.weight, made.c.weight, made.table))
    assert not in_file(made.d.weight)
    assert made.a.weight is made.b.weight
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.stride() == strides[name]
    assert torch.equal(made(x), expected)
    assert spare_memory(made, tmp_path) == 0  # once


def test_they_can_be_written_and_saved_like_others(tmp_path):
    made, twin = module(), module()
    spare_memory(made, tmp_path)
    for each in (made, twin):
        each.c.weight.data.add_(1)
        each.load_state_dict({**each.state_dict(), "d.bias": torch.ones(4)})
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in twin.state_dict().items())
    assert torch.equal(copy.deepcopy(made).c.weight, twin.c.weight)


def test_a_compiled_module_computes_the_same_and_notices_changes():
    made, x = module(), noise(1, 64, 12, 12)
    plain, spared = (retouch.compile(m, x, policy="exact", keep_module=k) for m, k in ((module(), True), (made, False)))
    assert in_file(made.a.weight)
    y, recording = spared.record(x)
    assert torch.equal(y, plain.record(x)[0])
    assert torch.equal(spared(x), plain(x))
    other = x.clone()
    other[..., 3:5, 3:5] += 1
    region = Region.from_images(x[0], other[0])
    assert torch.equal(spared.update(recording, region, other), plain.update(plain.record(x)[1], region, other))
    made.a.weight.data.mul_(2)
    with pytest.raises(WeightsChangedError):
        spared.update(recording, region, x)
    assert torch.equal(spared.record(x)[0], retouch.compile(made, x, policy="exact").record(x)[0])


def test_without_room_they_stay_and_that_is_said(tmp_path, monkeypatch):
    made = module()
    (tmp_path / "file").write_text("in the place of a folder")
    with pytest.warns(FallbackWarning, match="weights stay in memory beside the packed ones"):
        assert spare_memory(made, tmp_path / "file") == 0
    assert not in_file(made.a.weight)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spare.os, "fdopen", full)
    with pytest.warns(FallbackWarning, match="No space left"):
        assert spare_memory(made, tmp_path) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
