"""Compile every kernel for GPUs that are not here, and say what it takes there.

    python -m retouch.kernels.triton.ahead            # a table
    python -m retouch.kernels.triton.ahead --json     # the same for `tests/kernels/triton_resources.json`

The kernels are launched as the engine launches them, on a driver that compiles for a named architecture and
runs nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from retouch.errors import RetouchError
from retouch.ir.expr import Instr
from retouch.kernels.tensors import Index
from retouch.kernels.triton import attention, copy, depthwise, gemm, moments, pool, row_map, shuffle
from retouch.kernels.triton.handles import code_of

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_86": GPUTarget("cuda", 86, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_LIMIT = {"sm_80": 163, "sm_86": 99, "sm_90": 227, "gfx942": 64}
"""KiB of shared memory that one block may have (CUDA C++ Programming Guide, table of compute capabilities; AMD
CDNA 3 ISA: 64 KiB of local data share)."""


ROWS = 200
ROW, TAPS, BOUNDS = (
    Index.of(array.astype(np.int32), torch.device("cpu"))
    for array in (np.arange(ROWS), np.zeros((ROWS, 9)), np.array([0, 80, ROWS]))
)
ACC, ROWS_0, VECTOR_0, VECTOR_1 = Instr("acc"), Instr("rows"), Instr("vector"), Instr("vector", 1)
EPILOGUE = code_of((ACC, VECTOR_0, Instr("add", 0, 1), ROWS_0, Instr("add", 2, 3), Instr("silu", 4)))
NORM = code_of((ROWS_0, VECTOR_0, Instr("mul", 0, 1), VECTOR_1, Instr("add", 2, 3), Instr("silu", 4)))
LAYER_NORM = code_of((ROWS_0, Instr("layer_norm", 0, 0, 1e-5)))


class AheadError(RetouchError, RuntimeError):
    """Why nothing can be compiled."""


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes: registers a thread, bytes of shared memory, bytes or registers spilled.

    `matrix` says whether it uses tensor cores.
    """

    registers: int
    shared: int
    spilled: int
    matrix: bool


class _Driver:
    """A driver that knows a target and cannot launch."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        """A device for each target, as compiled kernels are remembered by device."""
        return str(self.target.arch)

    def get_current_stream(self, device: str) -> int:
        return 0


def _cuda(compiled: Any) -> Resources:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compiled.asm["cubin"])
        tool = triton.knobs.nvidia.cuobjdump.path
        text = subprocess.run([tool, "--dump-resource-usage", file], check=True, capture_output=True, text=True).stdout
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    matrix = re.search(r"\b(wgmma\.mma_async|mma\.sync)", compiled.asm["ptx"]) is not None
    return Resources(found["REG"], compiled.metadata.shared, found["STACK"] + found["LOCAL"], matrix)


def _amd(compiled: Any) -> Resources:
    text = compiled.asm["amdgcn"]
    found = {name: int(number) for name, number in re.findall(r"\.(vgpr_count|vgpr_spill_count):\s+(\d+)", text)}
    return Resources(found["vgpr_count"], compiled.metadata.shared, found["vgpr_spill_count"], "v_mfma" in text)


def _launches() -> Iterator[tuple[str, Callable[[], None]]]:
    """A name, and a function that launches, for every variant."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for name, function, *args in _variants(dtype):
            yield f"{name} {str(dtype).removeprefix('torch.')}", partial(function, *args)
    sums, fit = torch.zeros(2, 1280, dtype=torch.float64), torch.zeros(2, 1280)
    affine = fit[:1, :640], fit[:1, :640]
    yield "fold norm", partial(moments.fold_norm, fit, [sums], [sums], 32, ROWS, 1e-5, *affine)
    yield "move sums", partial(moments.move_sums, sums, sums, fit[:, :640], fit[:, 640:], ROWS, BOUNDS)


def _variants(dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    """A name, a kernel and its arguments: 640 channels, an index, two samples, a common epilogue."""
    x, out = torch.zeros(ROWS, 640, dtype=dtype), torch.zeros(ROWS, 640, dtype=dtype)
    vectors = [torch.zeros(2, 640)] * 2
    tail = EPILOGUE, [(x, ROW)], vectors[:1], ROW
    conv, linear = (gemm.Packed.of(torch.zeros(640, taps, 640, dtype=dtype), 1) for taps in (9, 1))
    yield "gemm 3x3", gemm.gemm, out, ROW, x, TAPS, conv, *tail
    yield "gemm 1x1", gemm.gemm, out, ROW, x, ROW, linear, *tail
    yield "depthwise", depthwise.depthwise, out, ROW, x, TAPS, torch.zeros(9, 640), *tail
    for size in (40, 64, 160, 512):
        heads = 640 // size
        q = x[:, : size * heads]
        yield f"attention {size}", attention.attention, q, None, q, ROW, q, q, heads, 0.1, BOUNDS
    yield "map", row_map.row_map, out, None, NORM, [(x, ROW)], vectors, ROW
    yield "layer norm", row_map.row_map, out, None, LAYER_NORM, [(x, None)], [], None
    yield "pool", pool.pool, out, None, x, TAPS, torch.zeros(ROWS, 9)
    yield "copy", copy.copy_rows, out, ROW, x, ROW
    yield "copies", copy.copy_many, [(out, ROW, x, ROW), (out, None, x, None)]
    yield "swap", copy.swap_rows, out, ROW, x
    yield "shuffle", shuffle.shuffle, out[:, :160], None, x, ROW, ROW, 1, 1
    yield "unshuffle", shuffle.unshuffle, out, None, x[:, :70], TAPS, 70, 1
    yield "channel sums", moments.channel_sums, torch.zeros(2, 1280, dtype=torch.float64), x, ROW, BOUNDS, 1
    yield "probes", moments.fit_probes, torch.zeros(2, 1280), x, ROW, x, ROW, BOUNDS


def compile_all(name: str) -> dict[str, Resources]:
    """Every kernel compiled for one of `TARGETS`, by its name and the variant that launched it."""
    return compiled(TARGETS[name], _launches())


def compiled(target: GPUTarget, launches: Iterable[tuple[str, Callable[[], None]]]) -> dict[str, Resources]:
    """What the kernels of named launches take on `target`, by the launch's name and the kernel's.

    Raises AheadError under `TRITON_INTERPRET`, where nothing is compiled.
    """
    if triton.knobs.runtime.interpret:
        raise AheadError("TRITON_INTERPRET is set, so kernels are interpreted; unset it to compile them")
    run, made = JITFunction.run, {}
    read = _amd if target.backend == "hip" else _cuda
    variant = ""  # of the launch that `compile_only` sees

    def compile_only(self: Any, *args: Any, **kwargs: Any) -> Any:
        kernel = run(self, *args, **{**kwargs, "warmup": True})
        made[f"{variant} ({self.fn.__name__})"] = read(kernel)
        return kernel

    driver.set_active(_Driver(target))
    JITFunction.run = compile_only
    try:
        for variant, launch in launches:  # noqa: B007
            launch()
    finally:
        JITFunction.run = run
        driver.set_active(None)
    return made


def main() -> None:
    """Print what every kernel takes on every target."""
    found = {name: {k: asdict(v) for k, v in compile_all(name).items()} for name in TARGETS}
    if "--json" in sys.argv[1:]:
        print(json.dumps(found, indent=1))
        return
    for target, kernels in found.items():
        for kernel, taken in kernels.items():
            print(f"{target:8} {kernel:50} {taken}")


if __name__ == "__main__":
    main()
