"""The Triton kernels in Triton's interpreter against their references."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import cases, interpreter
from kernels.cases import Random, assert_close, expected, result_of
from kernels.test_attention import query
from kernels.test_gemm import product
from retouch.errors import FallbackWarning
from retouch.ir.expr import Instr
from retouch.ir.instructions import BINARY, ROW_WISE, UNARY
from retouch.kernels import backend as kernels_named
from retouch.kernels.triton.backend import Triton
from retouch.kernels.triton.gemm import Packed
from retouch.ops import gemm

interpreter.correct()
backend = kernels_named("triton")
pytestmark = pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
few = settings(max_examples=8)
floats = torch.float32, torch.bfloat16, torch.float16
dtypes = st.sampled_from(floats)


def native(name, out, *args):
    """A copy of `out` after the Triton kernel."""
    return result_of(backend, name, out, *args)


def check(name, out, *args, bound=3e-6):
    result = native(name, out, *args)
    assert_close(result, expected(name, out, *args), bound)
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_split_sums_do_not_depend_on_the_other_rows(dtype):
    out, _, a, index, packed, *tail = product(Random(3), 70, 9, 130, 1, 40, dtype, torch.float32)
    assert Packed.of(packed.weight, packed.groups).split > 1
    whole = check("gemm", out, None, a, index, packed, *tail)
    subset = torch.tensor([3, 50, 69])
    part = native("gemm", out[subset], None, a, index[subset].contiguous(), packed, *tail)
    assert torch.equal(part, whole[subset])


def test_queries_are_independent():
    out, _, q, index, *rest, _ = query(Random(5), [90], 100, 2, 24, 40, torch.float32, torch.float32)
    whole = native("attention", out, None, q, index, *rest, torch.tensor([0, 90], dtype=torch.int32))
    subset = torch.tensor([0, 7, 88])
    few_queries = torch.tensor([0, 3], dtype=torch.int32)
    part = native("attention", out[subset], None, q, index[subset].contiguous(), *rest, few_queries)
    assert torch.equal(part, whole[subset])


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
    packed = gemm.Packed(torch.randn(4, 1, 8), 1)
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
        native("attention", out, None, a, index, [a], [a], 3, 1.0, bounds)


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
