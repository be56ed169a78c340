"""Kernel calls that are made in one go: what each gives by itself, wherever their handles point."""

import gc
import signal
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from kernels import cases
from kernels.specs import after, runs, tensors
from kernels.test_specs import BACKENDS
from retouch.kernels import cpu
from retouch.kernels.cpu.backend import Cpu
from retouch.kernels.protocol import handles
from retouch.ops.spec import Draw
from retouch.ops.specs import SPECS

CPU = BACKENDS["cpu"]


def pair(seed, rows=64, channels=16):
    return torch.zeros(rows, channels), torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed))


def listed(*copies):
    """A list that copies rows."""
    calls = cpu.Calls()
    for target, source in copies:
        calls.add(cpu.copy_rows, (target, None, source, None))
    return calls


@pytest.mark.parametrize(
    ("spec", "case", "dtype"), runs([name for name in cpu.KERNELS if name in CPU.kernels], CPU.dtypes)
)
@settings(max_examples=4)
@given(isa=cases.isas, seed=cases.seeds, threads=cases.threads)
def test_a_list_gives_what_single_calls_give(spec, case, dtype, isa, seed, threads):
    with cases.on_isa(isa, threads):
        arguments = spec.cases[case](Draw(seed), dtype)
        single, together = after(CPU, spec, after(CPU, spec, arguments)), deepcopy(arguments)
        call = CPU.kernel(spec.name), tuple(handles(CPU, together))
        run = CPU.graph([call, call])
        assert all(torch.equal(a, b) for a, b in zip(tensors(together), tensors(arguments), strict=True))
        run()
    assert all(torch.equal(a, b) for a, b in zip(tensors(together), tensors(single), strict=True))


def test_an_error_inside_is_the_kernels_and_ends_the_run():
    (first, source), (second, _) = pair(1), pair(2)
    target = cpu.Rows(second)
    calls = listed((cpu.Rows(first), cpu.Rows(source)), (target, cpu.Rows(source)), (target, cpu.Rows(source)))
    target.point(cpu.Rows(torch.zeros(64, 3)))
    with pytest.raises(ValueError, match="channels of src is 16, expected 3"):
        calls.run()
    assert torch.equal(first, source)
    target.point(None)
    with pytest.raises(ValueError, match="channels of src is 16, expected 0"):
        calls.run()
    target.point(cpu.Rows(second))
    calls.run()
    assert torch.equal(second, source)


def test_wrong_types_are_refused_when_a_call_is_added():
    calls = cpu.Calls()
    for arguments in ((1,), (), (cpu.Rows(torch.ones(2, 2)),)):
        with pytest.raises(TypeError, match="copy_rows"):
            calls.add(cpu.copy_rows, arguments)
    assert len(calls) == 0


def test_what_is_no_kernel_is_refused():
    rows, calls = cpu.Rows(torch.ones(2, 2)), cpu.Calls()
    two = [(rows, None, rows, None)] * 2
    for function, arguments in ((print, ()), (CPU.kernel("copy_many"), (two,))):
        with pytest.raises(TypeError, match="expected a kernel"):
            calls.add(function, arguments)
    assert len(calls) == 0


def test_other_kernels_are_called_one_by_one():
    partial = Cpu({name: kernel for name, kernel in CPU.kernels.items() if name != "pool"})
    assert partial.graph([(partial.kernel("pool"), ()), (partial.kernel("copy_rows"), ())]) is None


def test_handles_are_held_and_may_be_pointed_elsewhere():
    (out, source), (other, _) = pair(1), pair(2)
    holder = CPU.holder(cpu.Rows(out))
    calls = cpu.Calls()
    calls.add(cpu.row_map, (holder, None, cpu.Program([("rows", 0, 0, 0.0)]), [(cpu.Rows(source), None)]))
    gc.collect()
    calls.run()
    assert torch.equal(out, source)
    CPU.point(holder, cpu.Rows(other))
    out.zero_()
    calls.run()
    assert torch.equal(other, source)
    assert not out.any()


def test_weights_may_be_pointed_elsewhere():
    a, out = torch.randn(8, 4), torch.zeros(8, 4)
    first, second = (torch.randn(4, 1, 4) for _ in range(2))
    holder = CPU.holder(cpu.pack(first))
    run = CPU.graph([(cpu.gemm, (cpu.Rows(out), None, cpu.Rows(a), None, holder))])
    CPU.point(holder, None)
    with pytest.raises(ValueError, match=r"channels of out is 4, expected 0"):
        run()
    for weight in (first, second):
        CPU.point(holder, cpu.pack(weight))
        run()
        assert torch.allclose(out, a @ weight[:, 0].mT, atol=1e-5)


def test_a_holder_that_points_nowhere_keeps_no_memory():
    array = np.zeros((8, 4), np.float32)
    gone = weakref.ref(array)
    holder = CPU.holder(cpu.Rows(torch.from_numpy(array)))
    calls = listed((holder, cpu.Rows(torch.ones(8, 4))))
    del array
    gc.collect()
    assert gone() is not None
    CPU.point(holder, None)
    gc.collect()
    assert gone() is None
    assert len(calls) == 1


def test_lists_of_several_threads_at_once():
    def run(seed):
        out, source = pair(seed, 512)
        listed(*[(cpu.Rows(out), cpu.Rows(source))] * 50).run()
        return torch.equal(out, source)

    with cases.on_isa(cpu.isa(), 3), ThreadPoolExecutor(4) as threads:
        assert all(threads.map(run, range(40)))


@pytest.mark.skipif(sys.platform == "win32", reason="no interval timer")
def test_a_long_run_can_be_interrupted():
    class Rung(Exception):
        pass

    def ring(*_):
        raise Rung

    out, source = pair(1, 4096, 1024)
    calls = listed(*[(cpu.Rows(out), cpu.Rows(source))] * 20_000)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Rung):
            calls.run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_every_kernel_of_the_extension_has_a_specification():
    assert set(cpu.KERNELS) <= set(SPECS)
