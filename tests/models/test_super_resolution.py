"""Real-ESRGAN's generators: shapes, arithmetic, and weights from files of ncnn."""

import numpy as np
import pytest
import torch
from torch import nn

from retouch.models import ncnn
from retouch.models.checkpoints import WeightFileError
from retouch.models.super_resolution import SRVGG, RRDBNet
from support import fill

MAKE = {"rrdbnet": lambda: RRDBNet(2, 8, 4), "srvgg": lambda: SRVGG(3, 8)}


def written(module):
    """What ncnn would write for a module."""
    data = b""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            kernel = layer.weight.detach().numpy().astype("<f2").tobytes()
            data += ncnn.HALF.to_bytes(4, "little") + kernel + b"\0" * (-len(kernel) % 4)
            data += layer.bias.detach().numpy().astype("<f4").tobytes()
        elif isinstance(layer, nn.PReLU):
            data += layer.weight.detach().numpy().astype("<f4").tobytes()
    return data


@pytest.mark.parametrize("name", MAKE)
def test_four_times_as_large(name):
    assert MAKE[name]()(torch.rand(2, 3, 6, 8)).shape == (2, 3, 24, 32)


def test_published_sizes():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(RRDBNet()) == 16_697_987
    assert count(RRDBNet(6)) == 4_467_779
    assert count(SRVGG()) == 621_424


@pytest.mark.parametrize("name", MAKE)
def test_weights_come_back(name, tmp_path):
    module, other = fill(MAKE[name](), 1), MAKE[name]()
    (tmp_path / "w.bin").write_bytes(written(module))
    ncnn.load(other, tmp_path / "w.bin")
    for (key, a), b in zip(module.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6), key


def damaged(data, kind):
    if kind == "not finite":
        return data[:4] + np.array([np.nan], "<f2").tobytes() + data[6:]
    return {"cut": data[:-1], "longer": data + b"\0\0\0\0", "other kind": b"\0\0\0\0" + data[4:], "empty": b""}[kind]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("cut", "ends at byte"), ("longer", "left over"), ("other kind", "no half"), ("empty", "no half"),
     ("not finite", "not finite")],
)  # fmt: skip
def test_wrong_files_are_refused_and_change_nothing(kind, reason, tmp_path):
    module = fill(SRVGG(3, 8), 1)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    (tmp_path / "w.bin").write_bytes(damaged(written(fill(SRVGG(3, 8), 2)), kind))
    with pytest.raises(WeightFileError, match=reason):
        ncnn.load(module, tmp_path / "w.bin")
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_a_missing_file(tmp_path):
    with pytest.raises(WeightFileError, match="cannot be read"):
        ncnn.load(SRVGG(3, 8), tmp_path / "w.bin")


def test_another_network(tmp_path):
    (tmp_path / "w.bin").write_bytes(written(SRVGG(2, 8)))
    with pytest.raises(WeightFileError, match="does not fit"):
        ncnn.load(SRVGG(3, 8), tmp_path / "w.bin")
