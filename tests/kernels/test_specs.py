"""Every kernel of every backend against the reference of its spec, whatever case, dtype and sizes."""

import pytest
import torch
from hypothesis import given, settings

from kernels import cases, interpreter
from kernels.cases import on_isa
from kernels.specs import HOST, after, check, runs, tensors
from retouch.kernels.cpu.backend import Cpu
from retouch.kernels.reference import Reference
from retouch.kernels.triton.backend import Triton
from retouch.ops.spec import Draw
from retouch.ops.specs import SPECS

interpreter.correct()
BACKENDS = {"cpu": Cpu(), "triton": Triton(HOST), "reference": Reference(HOST)}


@pytest.mark.parametrize(("spec", "case", "dtype"), runs(BACKENDS["cpu"].kernels, BACKENDS["cpu"].dtypes))
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
@pytest.mark.parametrize(("spec", "case", "dtype"), runs(BACKENDS["triton"].kernels, BACKENDS["triton"].dtypes))
@settings(max_examples=5)
@given(seed=cases.seeds)
def test_triton(spec, case, dtype, seed):
    check(BACKENDS["triton"], spec, case, dtype, seed)


@pytest.mark.parametrize("lacking", ["cpu", "triton"])
@pytest.mark.parametrize(("spec", "case", "dtype"), runs(BACKENDS["reference"].kernels, BACKENDS["reference"].dtypes))
def test_references_stand_in_on_the_handles_of_a_backend(lacking, spec, case, dtype):
    gone = {"winograd", "gemm"} if spec.name == "winograd" else {spec.name}  # they read the same packed weights
    others = {name: kernel for name, kernel in BACKENDS[lacking].kernels.items() if name not in gone}
    missing = {*gone, *BACKENDS[lacking].lacking}
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


@pytest.mark.parametrize(
    ("name", "lacking"), [("cpu", set()), ("triton", {"int8_gemm", "winograd"}), ("reference", set())]
)
def test_what_is_lacking_here(name, lacking):
    assert set(BACKENDS[name].lacking) == lacking
