"""Which products are computed in int8."""

import pytest
import torch.nn.functional as F
from torch import nn

from retouch.errors import OptionError
from retouch.frontend.capture import capture
from retouch.frontend.lowering import lower
from retouch.ops.gemm import Gemm, Int8Gemm
from retouch.passes import fuse, in_arithmetic
from retouch.passes.arithmetic import BUDGET, Tried
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


def products(arithmetic, errors=(0.0, 0.0), rounding=0.0):
    """The program in an arithmetic, where the products that may be in int8 move the output by these, and rounding to
    the type of the weights as well.
    """
    program = fuse(lower(capture(Net().eval(), (noise(1, 3, 8, 8),), {})))

    def tried(_, products):
        return Tried({op.out: e for op, e in zip(products, errors, strict=True)}, rounding)

    return in_arithmetic(program, arithmetic, tried)


def names(found, kind):
    ops = [op for op in found.program.ops if type(op) is kind]
    return sorted(op.weight.value.name.split("_")[-2] for op in ops)


def test_inner_and_wide_products_are():
    found = products("int8")
    assert names(found, Int8Gemm) == ["point", "wide"]
    reasons = {op.weight.value.name.split("_")[-2]: found.left[op.out] for op in found.program.ops if type(op) is Gemm}
    assert reasons == {
        "first": "reads what the network reads",
        "groups": "16 channels",
        "narrow": "8 channels",
        "around": "8 channels",
        "last": "makes what the network returns",
    }


@pytest.mark.parametrize(("wide", "point", "found"), [
    (0.9, 0.3, ["point", "wide"]),  # together within the budget
    (0.9, 0.7, ["wide"]),  # 18 times the arithmetic for not twice the square
    (0.9, 0.2, ["point", "wide"]),
    (2.0, 0.3, ["point"]),
    (2.0, 2.0, []),
])  # fmt: skip
def test_those_that_move_the_output_most_for_what_they_compute_are_not(wide, point, found):
    made = products("int8", (wide * BUDGET, point * BUDGET))
    assert names(made, Int8Gemm) == found
    for error, name in ((wide, "wide"), (point, "point")):
        told = f"in int8 it moves the output by {error * BUDGET:.2%}"
        assert (told in made.left.values()) == (name not in found)


def test_int8_may_do_as_much_as_rounding_to_the_type_of_the_weights():
    errors = 2.0 * BUDGET, 1.9 * BUDGET
    assert names(products("int8", errors, 2.8 * BUDGET), Int8Gemm) == ["point", "wide"]
    assert names(products("int8", errors, 2.1 * BUDGET), Int8Gemm) == ["wide"]
    assert names(products("int8", errors, 0.5 * BUDGET), Int8Gemm) == []


def test_those_of_which_nothing_is_known_are_not():
    found = products("int8", (float("nan"), 0.0))
    assert names(found, Int8Gemm) == ["point"]
    assert "what int8 does there is not known" in found.left.values()


def test_of_floats_none_is():
    found = products("float")
    assert not found.left
    assert not names(found, Int8Gemm)


def test_another_arithmetic():
    with pytest.raises(OptionError, match="unknown arithmetic 'int4'; choose from: float, int8"):
        products("int4")
