"""The Triton kernels in Triton's interpreter against their references."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import cases, interpreter
from kernels.cases import EPILOGUES, Random, assert_close, epilogue, expected
from kernels.test_attention import BOUNDS, query
from kernels.test_gemm import product
from retouch.errors import FallbackWarning
from retouch.ir.expr import Instr
from retouch.ir.instructions import BINARY, ROW_WISE, UNARY
from retouch.kernels import backend as kernels_named
from retouch.kernels.tensors import Index
from retouch.kernels.triton.backend import Triton
from retouch.kernels.triton.gemm import Packed
from retouch.kernels.triton.handles import code_of

interpreter.correct()
backend = kernels_named("triton")
pytestmark = pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
few = settings(max_examples=8)
floats = torch.float32, torch.bfloat16, torch.float16
dtypes = st.sampled_from(floats)


def handle(argument):
    """The Triton form of an argument of a reference kernel."""
    if isinstance(argument, torch.Tensor):
        return Index.of(argument.numpy(), argument.device) if argument.dtype == torch.int32 else argument
    if isinstance(argument, list):
        return [handle(a) for a in argument]
    if isinstance(argument, tuple) and argument and isinstance(argument[0], Instr):
        return code_of(argument)
    if isinstance(argument, tuple) and len(argument) == 2 and isinstance(argument[1], int):
        return Packed.of(*argument)
    if isinstance(argument, tuple):
        return tuple(handle(a) for a in argument)
    return argument


def native(name, out, *args):
    """A copy of `out` after the Triton kernel."""
    result = out.clone()
    backend.kernel(name)(result, *map(handle, args))
    return result


def check(name, out, *args, bound=3e-6):
    result = native(name, out, *args)
    assert_close(result, expected(name, out, *args), bound)
    return result


@few
@given(seed=cases.seeds, dtype=dtypes, m=st.integers(1, 90), taps=st.sampled_from([1, 9]), per_group=cases.channels,
       outputs=cases.channels, kind=st.sampled_from(EPILOGUES))  # fmt: skip
def test_gemm(seed, dtype, m, taps, per_group, outputs, kind):
    check("gemm", *product(Random(seed), m, taps, per_group, 1, outputs, dtype, dtype, kind))


@few
@given(seed=cases.seeds, dtype=dtypes, groups=st.sampled_from([2, 3]), per_group=st.integers(1, 20),
       per_output=st.integers(1, 40), taps=st.sampled_from([1, 9]))  # fmt: skip
def test_gemm_in_groups(seed, dtype, groups, per_group, per_output, taps):
    check("gemm", *product(Random(seed), 20, taps, per_group, groups, groups * per_output, dtype, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_split_sums_do_not_depend_on_the_other_rows(dtype):
    out, _, a, index, packed, *tail = product(Random(3), 70, 9, 130, 1, 40, dtype, torch.float32)
    assert Packed.of(*packed).split > 1
    whole = check("gemm", out, None, a, index, packed, *tail)
    subset = torch.tensor([3, 50, 69])
    part = native("gemm", out[subset], None, a, index[subset].contiguous(), packed, *tail)
    assert torch.equal(part, whole[subset])


@few
@given(seed=cases.seeds, dtype=dtypes, m=st.integers(1, 60), taps=st.sampled_from([1, 9]), width=cases.channels,
       kind=st.sampled_from(EPILOGUES))  # fmt: skip
def test_depthwise(seed, dtype, m, taps, width, kind):
    random = Random(seed)
    a, index, weight = random.rows(m + 2, width, dtype), random.index(-1, m + 2, m, taps), torch.randn(taps, width)
    check("depthwise", random.rows(m, width, dtype), None, a, index, weight, *epilogue(kind, random, m, width, dtype))


@few
@given(seed=cases.seeds, dtype=dtypes, m=st.integers(1, 50), taps=st.integers(1, 9), width=cases.channels,
       maximum=st.booleans())  # fmt: skip
def test_pool(seed, dtype, m, taps, width, maximum):
    random = Random(seed)
    a, index = random.rows(m + 2, width, dtype), random.index(-1, m + 2, m, taps)
    index[:, 0].clamp_(min=0)
    check("pool", random.rows(m, width, dtype), None, a, index, None if maximum else random.rows(m, taps))


@few
@given(seed=cases.seeds, dtype=dtypes, counts=st.lists(st.integers(0, 70), min_size=1, max_size=3),
       keys=st.sampled_from([1, 31, 77, 129]), heads=st.sampled_from([1, 2]), dk=st.sampled_from([8, 9, 40]),
       dv=st.sampled_from([8, 17, 40]))  # fmt: skip
def test_attention(seed, dtype, counts, keys, heads, dk, dv):
    args = query(Random(seed), counts, keys, heads, dk, dv, dtype, dtype)
    check("attention", *args, bound=BOUNDS.get(dtype, 4e-3))


def test_attention_with_one_wide_head():
    check("attention", *query(Random(1), [20], 70, 1, 512, 512, torch.float32, torch.float32), bound=1e-5)


def test_queries_are_independent():
    out, _, q, index, *rest, _ = query(Random(5), [90], 100, 2, 24, 40, torch.float32, torch.float32)
    whole = native("attention", out, None, q, index, *rest, torch.tensor([0, 90], dtype=torch.int32))
    subset = torch.tensor([0, 7, 88])
    few_queries = torch.tensor([0, 3], dtype=torch.int32)
    part = native("attention", out[subset], None, q, index[subset].contiguous(), *rest, few_queries)
    assert torch.equal(part, whole[subset])


@few
@given(seed=cases.seeds, m=st.integers(0, 40), width=cases.channels,
       pair=st.sampled_from([(a, b) for a in floats for b in (a, torch.float32)]))  # fmt: skip
def test_copy(seed, m, width, pair):
    random = Random(seed)
    dst, src = random.rows(50, width, pair[0]), random.rows(45, width, pair[1])
    where, source = random.distinct(m, 50), random.index(-1, 45, m)
    for args in ((dst, where, src, source), (dst, None, src, source), (dst, None, src, None)):
        assert torch.equal(native("copy_rows", *args), expected("copy_rows", *args))


@few
@given(seed=cases.seeds, sizes=st.lists(st.tuples(st.integers(0, 40), st.sampled_from([1, 3, 130, 256])), max_size=5),
       pairs=st.lists(st.tuples(dtypes, dtypes), min_size=1, max_size=2))  # fmt: skip
def test_many_copies_in_one_launch(seed, sizes, pairs):
    random, copies, wanted = Random(seed), [], []
    for number, (m, width) in enumerate(sizes):
        to, of = pairs[number % len(pairs)]
        dst, src = random.rows(50, width + 2, to)[:, 1 : 1 + width], random.rows(45, width, of)
        where, source = random.distinct(m, 50), random.index(-1, 45, m)
        indices = [(where, source), (None, source), (None, None), (where, None)][number % 4]
        src = src[:m] if indices[1] is None and indices[0] is not None else src
        copies.append((dst.clone(), indices[0], src, indices[1]))
        wanted.append(expected("copy_rows", *copies[-1]))
    backend.kernel("copy_many")([tuple(map(handle, each)) for each in copies])
    assert all(torch.equal(result, each) for (result, *_), each in zip(copies, wanted, strict=True))


@few
@given(seed=cases.seeds, m=st.integers(0, 40), width=cases.channels)
def test_swapping_twice_restores(seed, m, width):
    random = Random(seed)
    kept, saved, where = random.rows(50, width), random.rows(m, width), random.distinct(m, 50)
    first, second = kept.clone(), saved.clone()
    swap = backend.kernel("swap_rows")
    swap(kept, handle(where), saved)
    assert torch.equal(kept[where.long()], second)
    assert torch.equal(saved, first[where.long()])
    swap(kept, handle(where), saved)
    assert torch.equal(kept, first)
    assert torch.equal(saved, second)


@few
@given(seed=cases.seeds, dtype=dtypes, width=cases.channels, sign=st.sampled_from([1, -1]), whole=st.booleans(),
       counts=st.lists(st.integers(0, 600), min_size=1, max_size=3))  # fmt: skip
def test_channel_sums(seed, dtype, width, sign, whole, counts):
    random, m = Random(seed), sum(counts)
    x, index = random.rows(m + 1, width, dtype), None if whole else random.index(0, m + 1, m)
    bounds = torch.tensor([0, *counts]).cumsum(0).int()
    sums = torch.randn(len(counts), 2 * width, dtype=torch.float64)
    check("channel_sums", sums, x, index, bounds, sign, bound=1e-13)


@few
@given(seed=cases.seeds, samples=st.integers(1, 3), groups=st.sampled_from([1, 2, 8]), per_part=st.integers(1, 5),
       parts=st.integers(1, 3), affine=st.booleans(), shifted=st.booleans())  # fmt: skip
def test_fold_norm(seed, samples, groups, per_part, parts, affine, shifted):
    random, width, count = Random(seed), per_part * groups, 50
    sums = []
    for _ in range(parts):
        x = (random.rows(samples * count, width) * 3 + 1).double().reshape(samples, count, width)
        sums.append(torch.cat([x.sum(1), x.square().sum(1)], 1))
    channels = width * parts
    affine_pair = (random.rows(1, channels), random.rows(1, channels)) if affine else (None, None)
    shifts = [s * 0.1 for s in sums] if shifted else []
    check("fold_norm", torch.empty(samples, 2 * channels), sums, shifts, groups, count, 1e-5, *affine_pair, bound=1e-6)


@few
@given(seed=cases.seeds, channels=st.integers(1, 40), counts=st.lists(st.integers(0, 20), min_size=1, max_size=3),
       dtype=dtypes)  # fmt: skip
def test_fit_probes(seed, channels, counts, dtype):
    random = Random(seed)
    bounds = torch.tensor([0, *counts]).cumsum(0).int()
    total = int(bounds[-1])
    before, after = random.rows(total + 5, channels, dtype), random.rows(total + 5, channels, dtype)
    index = torch.arange(total, dtype=torch.int32)
    check("fit_probes", torch.empty(len(counts), 2 * channels), before, index + 5, after, index, bounds, bound=1e-5)


@few
@given(seed=cases.seeds, samples=st.integers(1, 3), channels=st.integers(1, 20))
def test_move_sums(seed, samples, channels):
    random = Random(seed)
    sums = torch.randn(samples, 2 * channels, dtype=torch.float64)
    scale, shift = random.rows(samples, channels), random.rows(samples, channels)
    bounds = torch.arange(samples + 1, dtype=torch.int32) * 10
    check("move_sums", torch.empty_like(sums), sums, scale, shift, 60, bounds, bound=1e-12)


@few
@given(seed=cases.seeds, dtype=dtypes, m=st.integers(1, 100), phases=st.sampled_from([1, 4, 6]),
       width=st.integers(1, 70), inner=st.booleans())  # fmt: skip
def test_shuffles(seed, dtype, m, phases, width, inner):
    random = Random(seed)
    a, index, phase = random.rows(9, phases * width, dtype), random.index(-1, 9, m, 1), random.index(0, phases, m)
    strides = (width, 1) if inner else (1, phases)
    check("shuffle", random.rows(m, width, dtype), None, a, index, phase, *strides, bound=0)
    a, index = random.rows(9, width, dtype), random.index(-1, 9, m, phases)
    check("unshuffle", random.rows(m, phases * width, dtype), None, a, index, *strides, bound=0)


@pytest.mark.parametrize("op", sorted(UNARY))
def test_unary(op):
    x = torch.linspace(-9, 9, 1001)[:, None]
    if op in ("sqrt", "rsqrt", "log", "log1p"):
        x = x.abs() + 1e-3
    for imm in (2.0, 3.0, 0.5, -1.5) if op == "pow" else (1.0, 0.2):
        values = x.abs() + 0.1 if op == "pow" and imm != int(imm) else x[x != 0][:, None] if op == "reciprocal" else x
        program = (Instr("rows"), Instr(op, 0, 0, imm))
        out = torch.empty_like(values)
        got, wanted = (f("row_map", out, None, program, [(values, None)], [], None) for f in (native, expected))
        assert torch.allclose(got, wanted, rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("op", sorted(BINARY))
def test_binary(op):
    x, y = (torch.randint(-3, 4, (50, 9), generator=torch.Generator().manual_seed(i)).float() for i in (0, 1))
    program, out = (Instr("rows", 0), Instr("rows", 1), Instr(op, 0, 1)), torch.empty(50, 9)
    got, wanted = (f("row_map", out, None, program, [(x, None), (y, None)], [], None) for f in (native, expected))
    assert torch.allclose(got, wanted, equal_nan=True)


@few
@given(seed=cases.seeds, dtype=dtypes, width=cases.channels, m=st.integers(1, 60),
       op=st.sampled_from(sorted(ROW_WISE)))  # fmt: skip
def test_whole_rows(seed, dtype, width, m, op):
    random = Random(seed)
    x, scale, where = random.rows(m, width, dtype), random.rows(1, width), random.distinct(max(1, m // 3), m)
    program = (Instr("rows"), Instr(op, 0, 0, 1e-5), Instr("vector"), Instr("mul", 1, 2), Instr("silu", 3))
    out = torch.zeros(m, width, dtype=dtype)
    whole = check("row_map", out, None, program, [(x, None)], [scale], None, bound=1e-5)
    part = native("row_map", out, where, program, [(x, where)], [scale], None)
    assert torch.equal(part[where.long()], whole[where.long()])


def test_mean_into_one_channel():
    x = torch.randn(6, 40)
    program = (Instr("rows"), Instr("row_mean", 0))
    check("row_map", torch.empty(6, 1), None, program, [(x, None)], [], None)


@few
@given(seed=cases.seeds, dtype=dtypes, width=cases.channels, m=st.integers(1, 60))
def test_maps_of_rows_of_one_channel_and_of_samples(seed, dtype, width, m):
    random = Random(seed)
    operands = [(random.rows(m + 2, width, dtype), random.index(-1, m + 2, m)), (random.rows(m, 1, dtype), None)]
    vectors, sample = [random.rows(2, width), random.rows(1, 1)], random.index(0, 2, m).sort().values
    program = (Instr("rows"), Instr("rows", 1), Instr("maximum", 0, 1), Instr("vector"), Instr("sub", 2, 3),
               Instr("vector", 1), Instr("div", 4, 5))  # fmt: skip
    check("row_map", random.rows(m, width, dtype), None, program, operands, vectors, sample, bound=1e-5)


def test_bad_arguments():
    a, out = torch.randn(6, 8), torch.empty(5, 4)
    packed = torch.randn(4, 1, 8), 1
    index = torch.zeros(5, dtype=torch.int32)
    with pytest.raises(ValueError, match="a has 7, out 4"):
        native("gemm", out, None, a[:, :7], index, packed, None, [], [], None)
    with pytest.raises(TypeError, match=r"a is torch.bfloat16, the packed weights are torch.float32"):
        native("gemm", out, None, a.bfloat16(), index, packed, None, [], [], None)
    with pytest.raises(ValueError, match="index of shape"):
        native("gemm", out, None, a, index[:4], packed, None, [], [], None)
    for rows, taps in ((4, 2), (5, 1)):
        with pytest.raises(ValueError, match=r"index of shape .*, expected \[5, 2\]"):
            native("depthwise", torch.empty(5, 8), None, a, index[:rows, None].expand(rows, taps).contiguous(),
                   torch.randn(2, 8), None, [], [], None)  # fmt: skip
    with pytest.raises(ValueError, match="do not divide into 3 groups"):
        Packed.of(torch.randn(4, 1, 8), 3)
    with pytest.raises(ValueError, match="an operand has 3 channels"):
        native("row_map", out, None, (Instr("rows"),), [(torch.randn(5, 3), None)], [], None)
    with pytest.raises(ValueError, match="channel 8 is outside a row of 8"):
        native("shuffle", torch.empty(5, 3), None, a, index, index, 2, 4)
    bounds = torch.tensor([0, 5], dtype=torch.int32)
    with pytest.raises(ValueError, match="3 heads"):
        native("attention", out, None, a, index, a, a, 3, 1.0, bounds)


@pytest.fixture
def cuda(monkeypatch):
    """PyTorch as it is on a machine with two GPUs, of which the second computes; what is done to them, in order."""
    log = []

    @contextmanager
    def within(*what):
        log.append(("enter", *what))
        yield
        log.append(("leave", *what))

    graph = SimpleNamespace(replay=lambda: log.append("replay"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"side of {device.index}")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"main of {device.index}")
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: log.append(stream))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, pool, stream, **_: within("graph", pool, stream))
    monkeypatch.setattr(torch.cuda, "device", lambda device: within("device", device.index))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "device_index", lambda index: within("index", index))
    found = Triton(torch.device("cpu"))
    found.device = torch.device("cuda", 1)
    return found, log


def test_launches_are_captured_and_replayed(cuda):
    found, log = cuda
    again = found.graph([(log.append, ("a",)), (log.append, ("b",))])
    device, side = ("device", 1), ("graph", "pool", "side of 1")
    captured = [("enter", *device), ("enter", *side), "a", "b", ("leave", *side), ("leave", *device)]
    assert log == [*captured, "main of 1"]
    log.clear()
    again()
    assert log == ["replay"]


def raising(error):
    def launch():
        raise error

    return launch, ()


def test_without_graphs_kernels_are_launched_one_by_one(cuda):
    """The stream is the caller's again, and nobody tries another time."""
    found, log = cuda
    assert found.graphs
    with pytest.warns(FallbackWarning, match="launched one by one, as CUDA graphs fail here: not permitted"):
        assert found.graph([raising(RuntimeError("not permitted"))]) is None
    assert log[-1] == "main of 1"
    assert not found.graphs


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("out of memory"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_a_capture_that_is_cut_short_is_tried_again(cuda, error):
    found, log = cuda
    with pytest.raises(type(error)):
        found.graph([raising(error)])
    assert log[-1] == "main of 1"
    assert found.graphs
    assert found.graph([(log.append, ("a",))]) is not None


def test_kernels_run_on_their_device_whichever_is_the_current_one(cuda):
    found, log = cuda
    copy = found.kernel("copy_rows")
    dst, src = torch.zeros(3, 2), torch.ones(3, 2)
    copy(dst, None, src, None)
    assert torch.equal(dst, src)
    assert log == [("enter", "index", 1), ("leave", "index", 1)]
    assert found.kernel("copy_rows") is copy
