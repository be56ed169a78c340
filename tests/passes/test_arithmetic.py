"""Which products are computed in int8."""

import pytest
import torch.nn.functional as F
from torch import nn

from retouch.errors import OptionError
from retouch.frontend.capture import capture
from retouch.frontend.lowering import lower
from retouch.passes import fuse, in_arithmetic
from support import noise


class Net(nn.Module):
    """Convolutions one after the other; a narrow one and one in narrow groups among them, and a way around some."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.wide = nn.Conv2d(64, 64, 3, padding=1)
        self.groups = nn.Conv2d(64, 64, 3, padding=1, groups=4)
        self.narrow = nn.Conv2d(64, 8, 1)
        self.around = nn.Conv2d(8, 64, 1)
        self.point = nn.Conv2d(64, 32, 1)
        self.last = nn.Conv2d(32, 40, 3, padding=1)

    def forward(self, x):
        y = F.silu(self.wide(F.silu(self.first(x))))
        y = self.around(self.narrow(self.groups(y))) + y
        return self.last(self.point(y))


def kinds(arithmetic):
    program = fuse(lower(capture(Net().eval(), (noise(1, 3, 8, 8),), {})))
    found = in_arithmetic(program, arithmetic)
    return {op.weight.value.name: type(op).__name__ for op in found.ops if hasattr(op, "weight")}


def test_inner_and_wide_products_are():
    found = kinds("int8")
    in_int8 = [name for name, kind in found.items() if kind == "Int8Gemm"]
    assert sorted(name.split("_")[-2] for name in in_int8) == ["point", "wide"]


def test_of_floats_none_is():
    assert set(kinds("float").values()) == {"Gemm"}


def test_another_arithmetic():
    with pytest.raises(OptionError, match="unknown arithmetic 'int4'; choose from: float, int8"):
        kinds("int4")
