"""Row copies, also between dtypes, and exchanges."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import cases
from kernels.cases import Random, native, on_isa
from retouch.kernels import cpu
from retouch.ops import copy

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
PAIRS = [*itertools.product(FLOATS, FLOATS), (torch.float64, torch.float64)]
ODD_PAIRS = list(itertools.permutations(FLOATS, 2))


def assert_same_bits(got, wanted):
    """Equal bit for bit, but any NaN for a NaN."""
    number = ~wanted.isnan()
    assert torch.equal(~got.isnan(), number)
    bits = BITS[wanted.itemsize]
    assert torch.equal(got.view(bits)[number], wanted.view(bits)[number])


def check_bits(*args):
    wanted = args[0].clone()
    copy.copy_rows(wanted, *args[1:])
    assert_same_bits(native("copy_rows", *args), wanted)


@given(isa=cases.isas, seed=cases.seeds, pair=st.sampled_from(ODD_PAIRS), start=st.integers(0, 9), width=cases.channels)
def test_converting_columns_leaves_the_others(isa, seed, pair, start, width):
    random = Random(seed)
    dst, src = (random.rows(20, start + width + 5, dtype) for dtype in pair)
    result = dst.clone()
    with on_isa(isa):
        cpu.copy_rows(cpu.Rows(result).slice(start, width), None, cpu.Rows(src).slice(start, width))
    dst[:, start : start + width] = src[:, start : start + width]
    assert_same_bits(result, dst)


def every_value(dtype):
    """All values of a 16-bit dtype; of float32 those at and beside every tie of rounding to 16 bits."""
    if dtype != torch.float32:
        return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    ties = [torch.arange(-(2**31), 2**31, 2**bits) + (2 ** (bits - 1)) for bits in range(13, 25)]
    exact = torch.arange(-(2**31), 2**31, 2**13)
    around = torch.cat([exact, *ties])
    return torch.cat([around - 1, around, around + 1]).clamp(-(2**31)).int().view(dtype)


@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize(("to", "dtype"), ODD_PAIRS)
def test_every_value_converts_as_in_pytorch(isa, to, dtype):
    values = every_value(dtype)
    out = torch.empty(1, len(values), dtype=to)
    with on_isa(isa):
        cpu.copy_rows(cpu.Rows(out), None, cpu.Rows(values[None]))
    assert_same_bits(out[0], values.to(to))


@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize(("value", "dtype", "wanted"), [
    (65519.0, torch.float16, 65504.0),
    (65520.0, torch.float16, float("inf")),
    (-1e9, torch.float16, float("-inf")),
    (3.4e38, torch.bfloat16, float("inf")),
    (float("-inf"), torch.bfloat16, float("-inf")),
    (2.0**-24, torch.float16, 2.0**-24),
    (2.0**-25, torch.float16, 0.0),
    (3 * 2.0**-25, torch.float16, 2.0**-23),
    (2.0**-133, torch.bfloat16, 2.0**-133),
    (1 + 2.0**-8, torch.bfloat16, 1.0),
])  # fmt: skip
def test_rounding(isa, value, dtype, wanted):
    out = torch.empty(1, 1, dtype=dtype)
    with on_isa(isa):
        cpu.copy_rows(cpu.Rows(out), None, cpu.Rows(torch.tensor([[value]])))
    assert out.item() == wanted


@pytest.mark.parametrize("pair", PAIRS)
def test_large_copies_use_all_threads(pair):
    random = Random(1)
    dst, src = random.rows(4000, 64, pair[0]), random.rows(3000, 64, pair[1])
    check_bits(dst, random.distinct(3000, 4000), src, None)


def test_bad_arguments():
    dst, src = cpu.Rows(torch.empty(5, 8)), cpu.Rows(torch.randn(6, 8))
    with pytest.raises(ValueError, match="more rows than dst has"):
        cpu.copy_rows(dst, None, src)
    with pytest.raises(TypeError, match="dtypes differ"):
        cpu.copy_rows(dst, None, cpu.Rows(torch.randn(5, 8).double()))
    with pytest.raises(TypeError, match="dtypes differ"):
        cpu.copy_rows(cpu.Rows(torch.empty(6, 8, dtype=torch.float64)), None, cpu.Rows(torch.randn(5, 8).half()))
    with pytest.raises(TypeError, match="dtypes differ"):
        cpu.swap_rows(dst, None, cpu.Rows(torch.randn(5, 8).half()))
    with pytest.raises(ValueError, match="saved has fewer rows"):
        cpu.swap_rows(dst, None, cpu.Rows(torch.randn(4, 8)))
    with pytest.raises(ValueError, match=r"not all in 0 \.\. 4"):
        cpu.copy_rows(dst, cpu.Index(torch.tensor([-1], dtype=torch.int32)), src)
