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

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from retouch.kernels.devices import HOST
from retouch.kernels.protocol import BackendError, handles
from retouch.kernels.triton.backend import KERNELS, Triton
from retouch.ops.spec import Arguments, Draw, KernelSpec
from retouch.ops.specs import SPECS

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_86": GPUTarget("cuda", 86, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_LIMIT = {"sm_80": 163, "sm_86": 99, "sm_90": 227, "gfx942": 64}
"""KiB of shared memory that one block may have (CUDA C++ Programming Guide, table of compute capabilities; AMD
CDNA 3 ISA: 64 KiB of local data share)."""


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
    """A name, and a function that launches, for every case and dtype of every kernel of this backend."""
    for spec in map(SPECS.__getitem__, KERNELS):
        for case, arguments in spec.cases.items():
            for dtype in spec.dtypes(Triton.dtypes):
                yield (
                    f"{spec.name} {case} {str(dtype).removeprefix('torch.')}",
                    partial(_launch, spec, arguments, dtype),
                )


def _launch(spec: KernelSpec, arguments: Callable[..., Arguments], dtype: torch.dtype) -> None:
    kernels = Triton(HOST)
    kernels.kernel(spec.name)(*handles(kernels, arguments(Draw(), dtype)))


def compile_all(name: str) -> dict[str, Resources]:
    """Every kernel compiled for one of `TARGETS`, by its name and the variant that launched it."""
    return compiled(TARGETS[name], _launches())


def compiled(target: GPUTarget, launches: Iterable[tuple[str, Callable[[], None]]]) -> dict[str, Resources]:
    """What the kernels of named launches take on `target`, by the launch's name and the kernel's.

    Raises BackendError under `TRITON_INTERPRET`, where nothing is compiled.
    """
    if triton.knobs.runtime.interpret:
        raise BackendError("TRITON_INTERPRET is set, so kernels are interpreted; unset it to compile them")
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
