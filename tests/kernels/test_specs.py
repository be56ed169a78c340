"""Every kernel of every backend against the reference of its spec, whatever case, dtype and sizes."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from torch.utils import _pytree as pytree

from kernels import cases, interpreter
from kernels.cases import assert_close, on_isa
from retouch.kernels.cpu.backend import Cpu
from retouch.kernels.protocol import handles
from retouch.kernels.reference import Reference
from retouch.kernels.triton.backend import Triton
from retouch.ops.spec import Draw
from retouch.ops.specs import SPECS

interpreter.correct()
HOST = torch.device("cpu")
BACKENDS = {"cpu": Cpu(), "triton": Triton(HOST), "reference": Reference(HOST)}


def runs(kernels):
    """Spec, case and dtype of all that a backend has."""
    return [
        pytest.param(spec, case, dtype, id=f"{spec.name}-{case}-{str(dtype).removeprefix('torch.')}")
        for spec in SPECS.values()
        if spec.name in kernels.kernels
        for case in spec.cases
        for dtype in spec.dtypes(kernels.dtypes)
    ]


def tensors(arguments):
    return [x for x in pytree.tree_leaves(arguments) if isinstance(x, torch.Tensor)]


def after(kernels, spec, arguments):
    """Copies of the arguments after the kernel of a backend."""
    copied = deepcopy(arguments)
    kernels.kernel(spec.name)(*handles(kernels, copied))
    return copied


def check(kernels, spec, case, dtype, seed):
    """Compare with the reference, which does not round a result that may be off; returns the arguments, and after."""
    arguments, bound = spec.cases[case](Draw(seed), dtype), spec.tolerance[dtype]
    wanted = deepcopy(arguments)
    if bound and wanted[0].itemsize == 2:
        wanted = (wanted[0].float(), *wanted[1:])
    spec.reference(*wanted)
    found = after(kernels, spec, arguments)
    for number, (a, b) in enumerate(zip(tensors(found), tensors(wanted), strict=True)):
        if bound and number == 0:
            assert_close(a, b, bound)
        else:
            assert torch.equal(a, b)
    return arguments, found


@pytest.mark.parametrize(("spec", "case", "dtype"), runs(BACKENDS["cpu"]))
@settings(max_examples=12)
@given(isa=cases.isas, seed=cases.seeds, threads=cases.threads)
def test_cpu(spec, case, dtype, isa, seed, threads):
    """On every instruction set; the number of threads does not change a bit."""
    with on_isa(isa, threads):
        arguments, found = check(BACKENDS["cpu"], spec, case, dtype, seed)
    with on_isa(isa, 1):
        again = after(BACKENDS["cpu"], spec, arguments)
    assert all(torch.equal(a, b) for a, b in zip(tensors(found), tensors(again), strict=True))


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize(("spec", "case", "dtype"), runs(BACKENDS["triton"]))
@settings(max_examples=5)
@given(seed=cases.seeds)
def test_triton(spec, case, dtype, seed):
    check(BACKENDS["triton"], spec, case, dtype, seed)


@pytest.mark.parametrize("lacking", ["cpu", "triton"])
@pytest.mark.parametrize(("spec", "case", "dtype"), runs(BACKENDS["reference"]))
def test_references_stand_in_on_the_handles_of_a_backend(lacking, spec, case, dtype):
    others = {name: kernel for name, kernel in BACKENDS[lacking].kernels.items() if name != spec.name}
    missing = {spec.name, *BACKENDS[lacking].lacking}
    partial = Cpu(others) if lacking == "cpu" else Triton(HOST, others)
    assert dict(partial.lacking) == dict.fromkeys(missing, f"the {lacking} backend has no kernel of that name")
    check(partial, spec, case, dtype, seed=3)


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_specs_are_complete(spec):
    assert "\n" not in spec.formula
    assert spec.cases
    assert spec.tolerance
    for case in spec.cases.values():
        for dtype in spec.tolerance:
            spec.reference(*case(Draw(), dtype))


@pytest.mark.parametrize(("name", "lacking"), [("cpu", set()), ("triton", {"int8_gemm"}), ("reference", set())])
def test_what_is_lacking_here(name, lacking):
    assert set(BACKENDS[name].lacking) == lacking
