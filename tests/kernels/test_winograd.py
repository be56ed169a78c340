"""Convolutions in tiles of 2x2 rows: against the sum over taps, together and apart, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import cases
from kernels.cases import Random, check, native, on_isa
from retouch.ir.expr import Instr
from retouch.ir.geometry import Grid, conv_geometry
from retouch.ir.tables import Table
from retouch.kernels import cpu
from retouch.ops.gemm import Packed

BIAS = (Instr("acc"), Instr("vector"), Instr("add", 0, 1))


def convolution(random, listed, channels, outputs, dtype=torch.float32):
    """Arguments of a convolution of the listed positions `[maps, H, W]`, with a bias."""
    batch, height, width = listed.shape
    grid, rows = Grid(height, width), Table.of_mask(listed, batch)
    index = torch.from_numpy(conv_geometry(grid, (3, 3), (1, 1), (1, 1), (1, 1)).rows(rows.array))
    tiles = torch.from_numpy(rows.tiles(grid).array)
    a = random.rows(batch * grid.size, channels, dtype)
    weight = torch.randn(outputs, 9, channels) / (9 * channels) ** 0.5
    out, bias = random.rows(len(rows), outputs, dtype), random.rows(1, outputs)
    return out, None, a, index, Packed(weight.to(dtype), 1), BIAS, [], [bias], None, tiles


def some(random, batch, height, width, share):
    return torch.rand(batch, height, width, generator=random.generator).numpy() < share


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize(("height", "width", "share", "channels", "outputs"), [
    (1, 1, 1, 1, 1), (9, 7, 1, 300, 70), (48, 40, 1, 40, 130), (16, 16, 0.3, 130, 200), (40, 30, 0.05, 33, 64),
    (8, 8, 0.9, 600, 64), (3, 90, 0.6, 65, 3),
])  # fmt: skip
def test_sums_that_are_cut_into_chunks_and_parts(dtype, isa, height, width, share, channels, outputs):
    random = Random(height)
    for threads in (1, 2, 5):
        with on_isa(isa, threads):
            check("winograd", *convolution(random, some(random, 2, height, width, share), channels, outputs, dtype))


@given(
    isa=cases.isas, dtype=cases.dtypes, seed=cases.seeds, share=st.sampled_from([0.1, 0.5, 0.95]),
    channels=st.sampled_from([5, 64, 140]),
)  # fmt: skip
def test_maps_are_independent(isa, dtype, seed, share, channels):
    """Maps that are computed together, and by any number of threads, are bit for bit those that are computed alone."""
    random = Random(seed)
    listed = some(random, 3, 9, 12, share)
    out, _, a, index, packed, *tail, tiles = convolution(random, listed, channels, 70, dtype)
    with on_isa(isa, 1):
        whole = native("winograd", out, None, a, index, packed, *tail, tiles)
    ends = np.cumsum([0, *listed.reshape(3, -1).sum(1)])
    for number, (start, stop) in enumerate(pairwise(ends)):
        rows = Table.of_mask(listed[number : number + 1], 1)
        own = index[start:stop].clone()
        with on_isa(isa, number + 2):
            alone = torch.from_numpy(rows.tiles(Grid(9, 12)).array)
            got = native("winograd", out[start:stop], None, a, own, packed, *tail, alone)
        assert torch.equal(got, whole[start:stop])


@given(
    isa=cases.isas, dtype=cases.dtypes, seed=cases.seeds, channels=st.sampled_from([40, 500, 1283]),
    share=st.sampled_from([0.02, 0.5]),
)  # fmt: skip
def test_rows_that_are_alone_are_those_of_the_product(isa, dtype, seed, channels, share):
    random = Random(seed)
    *args, tiles = convolution(random, some(random, 2, 14, 11, share), channels, 70, dtype)
    with on_isa(isa, 2):
        got, product = native("winograd", *args, tiles), native("gemm", *args)
    alone = tiles[(tiles >= 0).sum(1) == 1].amax(1).long()
    assert torch.equal(got[alone], product[alone])


@pytest.mark.parametrize("share", [1, 0.5])
def test_as_exact_as_pytorch(share):
    """The error against float64 is at most twice that of PyTorch's convolution."""
    random = Random(1)
    listed = some(random, 1, 32, 32, share)
    out, _, a, index, packed, _, _, _, _, tiles = convolution(random, listed, 256, 128)
    got = native("winograd", out, None, a, index, packed, None, [], [], None, tiles)
    image = a.t().reshape(1, 256, 32, 32)
    weight = packed.weight.reshape(128, 3, 3, 256).permute(0, 3, 1, 2)
    taken = torch.from_numpy(listed).reshape(-1)

    def rows(x):
        return torch.nn.functional.conv2d(x, weight.to(x.dtype), padding=1)[0].flatten(1).t()[taken]

    true = rows(image.double())
    assert (got - true).norm() <= 2 * (rows(image) - true).norm()


def test_writes_only_the_indexed_rows():
    random = Random(2)
    out, _, a, index, packed, *tail, tiles = convolution(random, some(random, 1, 6, 6, 0.5), 40, 70)
    kept, where = torch.randn(50, 70), random.distinct(len(out), 50)
    result = native("winograd", kept, where, a, index, packed, *tail, tiles)
    assert torch.equal(result[where.long()], native("winograd", out, None, a, index, packed, *tail, tiles))
    others = torch.ones(50, dtype=torch.bool).index_fill(0, where.long(), False)
    assert torch.equal(result[others], kept[others])


def test_no_rows():
    assert native("winograd", *convolution(Random(4), np.zeros((2, 5, 5), np.bool_), 40, 70)).shape == (0, 70)


def bad(tiles=None, **instead):
    out, _, a, index, packed, *_, known = convolution(Random(3), np.ones((1, 2, 3), np.bool_), 8, 4)
    args = {"out": out, "a": a, "index": index, "packed": cpu.pack(packed.weight, 1)} | instead
    given = known if tiles is None else torch.tensor(tiles, dtype=torch.int32)
    rows = (cpu.Rows(args["out"]), None, cpu.Rows(args["a"]), cpu.Index(args["index"]))
    cpu.winograd(*rows, args["packed"], None, [], [], None, cpu.Index(given))


def test_bad_arguments():
    bad()
    with pytest.raises(ValueError, match="entry 6 is not below 6 rows"):
        bad([[0, 1, 2, 3], [4, 6, -1, -1]])
    with pytest.raises(ValueError, match="row 1 is in two places"):
        bad([[0, 1, 2, 3], [4, 1, -1, -1]])
    with pytest.raises(ValueError, match="rows in tiles is 5, expected 6"):
        bad([[0, 1, 2, 3], [4, -1, -1, -1]])
    with pytest.raises(ValueError, match="tile 1 is empty"):
        bad([[0, 1, 2, 3], [-1, -1, -1, -1], [4, 5, -1, -1]])
    with pytest.raises(ValueError, match="tile 2 of several rows comes after one of a single row"):
        bad([[0, 1, 2, -1], [3, -1, -1, -1], [4, 5, -1, -1]])
    with pytest.raises(ValueError, match="outputs of a tile is 2, expected 4"):
        bad([[0, 1], [2, 3], [4, 5]])
    with pytest.raises(ValueError, match="taps is 4, expected 9"):
        bad(packed=cpu.pack(torch.ones(4, 4, 8), 1))
    with pytest.raises(ValueError, match="groups is 2, expected 1"):
        bad(packed=cpu.pack(torch.ones(4, 9, 8), 2))
    with pytest.raises(TypeError, match="rows and weights of float32 or of bfloat16, not float32 and bfloat16"):
        bad(packed=cpu.pack(torch.ones(4, 9, 8).bfloat16(), 1))
    with pytest.raises(TypeError, match="not float16 and float32"):
        bad(a=torch.ones(6, 8).half())
    with pytest.raises(ValueError, match="entry 7 of the index is not below 6 rows"):
        bad(index=torch.full((6, 9), 7, dtype=torch.int32))
