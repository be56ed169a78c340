"""Choosing tiles: the choice with a stand-in for the clock, what is left out before it, and other tiles' values."""

import os
import subprocess
import sys

import pytest
import torch

from kernels import interpreter
from kernels.cases import Random, assert_close
from kernels.test_attention import query
from kernels.test_gemm import product
from kernels.test_triton import check
from retouch.errors import OptionError, RetouchError
from retouch.kernels import BackendError
from retouch.kernels.triton import tiles, tune
from retouch.kernels.triton.ahead import Resources
from retouch.kernels.triton.tiles import AttentionTile, Tile

interpreter.correct()
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
CPU = torch.device("cpu")
SMALL, LARGE = tune.Product(9, 8, 20), tune.Product(1, 8, 40)
FIRST, SECOND, THIRD = Tile(16, 16, 16, 4, 2), Tile(32, 16, 16, 4, 2), Tile(16, 32, 16, 4, 2)


def compiling(*arguments):
    """A finished Python without the interpreter of kernels and without GPUs."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_the_tile_with_the_least_geometric_mean_is_first():
    """The first is best in one case and the third has the least sum, but the second loses least in proportion."""
    cases = (SMALL, torch.float16), (LARGE, torch.float16)
    times = {FIRST: (1.0, 40.0), SECOND: (1.5, 12.0), THIRD: (4.0, 8.0)}
    found = tune.ranked({tile: dict(zip(cases, each, strict=True)) for tile, each in times.items()})
    assert [tile for tile, _ in found] == [SECOND, THIRD, FIRST]
    assert [score for _, score in found] == pytest.approx([1.5, 2.0, 5**0.5])


def test_every_case_is_timed_with_its_tile(monkeypatch):
    kind = tune.Kind("TILES", "gemm_kernel", {}, (), (SMALL, LARGE))
    seen = []

    def timer(run):
        run()
        return float(len(seen))

    def gemm(*arguments):
        seen.append((arguments[4].tile, arguments[2].dtype, len(arguments[1])))

    monkeypatch.setattr(tune.gemm, "gemm", gemm)
    before = tiles.TILES["other"]
    times = tune.measure(kind, 2, [FIRST, SECOND], timer, CPU)
    halves = torch.float16, torch.bfloat16
    assert seen == [(tile, dtype, rows) for tile in (FIRST, SECOND) for rows in (20, 40) for dtype in halves]
    assert list(times) == [FIRST, SECOND]
    assert times[SECOND] == {(SMALL, halves[0]): 5, (SMALL, halves[1]): 6, (LARGE, halves[0]): 7, (LARGE, halves[1]): 8}
    assert tiles.TILES["other"] is before


def test_a_tile_that_the_gpu_refuses_is_left_out():
    kind = tune.Kind("TILES", "gemm_kernel", {}, (), (SMALL,))

    def timer(run):
        if kind.used[4] == FIRST:
            raise tune.OutOfResources(2, 1, "shared memory")
        return 1.0

    assert list(tune.measure(kind, 4, [FIRST, SECOND], timer, CPU)) == [SECOND]
    with pytest.raises(BackendError, match="no candidate of TILES for numbers of 4 bytes"):
        tune.measure(kind, 4, [FIRST], timer, CPU)


@pytest.mark.parametrize(("taken", "size", "well"), [
    (Resources(255, 1000, 0, True), 2, True), (Resources(255, 1000, 8, True), 2, False),
    (Resources(64, 1001, 0, True), 2, False), (Resources(64, 0, 0, False), 2, False),
    (Resources(64, 0, 0, False), 4, True),
])  # fmt: skip
def test_what_runs_well(taken, size, well):
    assert tune.runs_well(taken, size, 1000) is well


@pytest.mark.parametrize("kind", tune.KINDS, ids=lambda kind: kind.table)
def test_tiles_in_use_are_candidates(kind):
    for name, row in kind.tiles.items():
        for size, tile in row.items():
            assert tile in kind.candidates[size], name
    assert list(tiles.ATTENTION_TILES) == list(tiles.TILES)


COMPILE = """
from retouch.kernels.triton import tune
from retouch.kernels.triton.tiles import AttentionTile, Tile
tune.DTYPES[2] = tune.DTYPES[2][:1]
for name in ("sm_80", "sm_86", "sm_90"):
    gpu = tune.named(name)
    for kind, other in (
        (tune.PRODUCTS, Tile(128, 128, 64, 8, 9)), (tune.ATTENTION, AttentionTile(128, 128, 128, 128, 4, 3))
    ):
        print(name, *(tune.fits(kind, 2, gpu, tile) for tile in (kind.tiles[name][2], other)))
"""


def test_what_compiled_kernels_take_decides():
    """The large tile of products exceeds the 99 KiB of sm_86 only; the large tile of attention spills everywhere."""
    done = compiling("-c", COMPILE)
    assert done.stdout.splitlines() == [
        "sm_80 True True", "sm_80 True False", "sm_86 True False", "sm_86 True False", "sm_90 True True",
        "sm_90 True False",
    ], done.stderr  # fmt: skip


def test_the_interpreter_has_no_candidates():
    with pytest.raises(RetouchError, match="TRITON_INTERPRET is set"):
        tune.fitting(tune.PRODUCTS, 4, tune.named("sm_90"))


def test_unknown_architectures_and_missing_gpus_are_named(monkeypatch):
    with pytest.raises(OptionError, match=r"no tiles are known for 'sm_1'; choose from: sm_80, sm_86, sm_90"):
        tune.named("sm_1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="this needs a GPU"):
        tune.present()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tile", [Tile(16, 32, 64, 4, 2), Tile(128, 16, 16, 8, 3)])
def test_products_with_other_tiles(dtype, tile):
    with tune.PRODUCTS.using(tile, dtype.itemsize):
        check("gemm", *product(Random(1), 70, 9, 130, 1, 40, dtype, dtype))


@pytest.mark.parametrize("tile", [AttentionTile(64, 16, 16, 32, 4, 2), AttentionTile(16, 64, 32, 64, 8, 2)])
def test_attention_with_other_tiles(tile):
    with tune.ATTENTION.using(tile, 4):
        check("attention", *query(Random(1), [30, 70], 129, 2, 24, 40, torch.float32, torch.float32), bound=1e-5)


def test_attention_computes_what_pytorchs_computes():
    run, sdpa = tune.Attention(40, 5, 70).launches(torch.float32, CPU)
    assert_close(run(), sdpa(), 1e-5)


def test_neighbours_of_the_first_row():
    side = tune.SIDE
    rows = tune._neighbours(torch.tensor([0, 1], dtype=torch.int32).numpy())
    assert rows.tolist() == [
        [-1, -1, -1, -1, 0, 1, -1, side, side + 1], [-1, -1, -1, 0, 1, 2, side, side + 1, side + 2],
    ]  # fmt: skip
