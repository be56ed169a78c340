"""Programs as plain data: the same when they are read, and refused when they are none."""

import json

import pytest
import torch
from torch import nn

from retouch.frontend.capture import capture
from retouch.frontend.data import from_data, to_data
from retouch.frontend.lowering import lower
from retouch.ops.dense import function_named, name_of
from retouch.passes import fuse, in_arithmetic
from retouch.passes.arithmetic import Tried
from support import fill, noise


class Everything(nn.Module):
    """Padding, resizing, pooling, attention written by hand, a fallback, numbers that JSON has not."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 64, 3, padding=1, padding_mode="reflect"), nn.Conv2d(64, 64, 3, stride=2)
        self.norm, self.c = nn.GroupNorm(4, 64), nn.Conv2d(64, 3, 1)

    def forward(self, x, t):
        h = self.norm(self.b(self.a(x))) * t[:, :, None, None]
        q = h.flatten(2).transpose(1, 2)
        h = h + (q @ q.transpose(1, 2)).softmax(-1).matmul(q).transpose(1, 2).reshape(h.shape)
        h = nn.functional.interpolate(h, scale_factor=2, mode="bilinear")
        h = h.cumsum(2).clamp(min=-float("inf")) + torch.tensor([1.0, 2.0])[None, :, None, None].sum()
        return self.c(nn.functional.pad(h, (1, 0, 0, 2), value=0.5)), 3


@pytest.fixture(scope="module")
def program():
    captured = capture(fill(Everything()), (noise(1, 3, 13, 13), noise(1, 64)), {})
    lowered = fuse(lower(captured))
    return in_arithmetic(lowered, "int8", lambda _, products: Tried({op.out: 0.0 for op in products})).program


@pytest.fixture
def data(program):
    objects, arrays = to_data(program)
    return json.loads(json.dumps(objects)), arrays


def test_what_is_read_is_what_was_written(program, data):
    found = from_data(*data)
    assert str(found) == str(program)
    assert [type(op) for op in found.ops] == [type(op) for op in program.ops]
    again, arrays = to_data(found)
    assert again == data[0]
    assert all(torch.equal(arrays[name], data[1][name]) for name in data[1])


def changed(objects, name, place, value):
    """The first object of a class with another field."""
    found = next(each for each in objects if each[0] == name)
    found[1 + place] = value


@pytest.mark.parametrize(("name", "place", "value"), [
    ("Value", 0, 7), ("Value", 1, ["3"]), ("Value", 2, {"torch": "save"}), ("Value", 2, {"torch": "nothing"}),
    ("Gemm", 1, {"object": 10**6}), ("Gemm", 1, {"object": -1}), ("Gemm", 2, {"object": 0}), ("AxisMap", 1, 1),
    ("Dense", 1, {"function": "aten.from_file.default"}), ("Dense", 1, {"function": "aten.add_.Tensor"}),
    ("Dense", 1, {"function": "eval"}), ("Dense", 1, {"function": "os.system"}), ("Dense", 1, {"import": "os"}),
    ("Instr", 0, "system"), ("Atom", 1, None), ("Program", 2, []), ("Program", 3, 1),
])  # fmt: skip
def test_what_is_no_program_is_refused(data, name, place, value):
    changed(data[0], name, place, value)
    with pytest.raises(ValueError, match="no program"):
        from_data(*data)


@pytest.mark.parametrize("objects", [None, 3, [], [[]], [["Thing"]], [["Value"]], [["Grid", 1, 2, False, 0]], {"a": 1}])
def test_other_data_are_refused(objects):
    with pytest.raises(ValueError, match="no program"):
        from_data(objects, {})


def test_functions_have_names():
    for function in (torch.cat, torch.ops.aten.add.Tensor, torch.Tensor.to):
        assert function_named(name_of(function)) is function
    for function in (print, torch.ops.aten.add_.Tensor, torch.save, lambda x: x):
        with pytest.raises(ValueError, match="programs may name"):
            name_of(function)
