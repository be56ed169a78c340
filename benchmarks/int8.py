"""Products in int8 beside those in bfloat16, interleaved: `kernels` alone, or the updates of a network.

Medians of processor time on one thread, so that other processes count for little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Annotated, Any

import torch
import typer

import retouch
from retouch import models
from retouch.bench.edits import square
from retouch.kernels import cpu
from retouch.ops.copy import spread
from retouch.ops.int8_gemm import Levels
from retouch.passes import arithmetic

SHAPES = (
    (40, 320, 320, 9), (150, 320, 320, 9), (400, 320, 320, 9), (150, 640, 640, 9), (100, 1280, 1280, 9),
    (150, 320, 320, 1), (150, 320, 1280, 1), (150, 1280, 320, 1), (400, 512, 512, 9), (900, 128, 128, 9),
)  # fmt: skip
"""Rows, columns, channels and taps that updates have."""

COLD = 80_000_000
"""Numbers of weights that are gone through before the same ones are read again."""

app = typer.Typer(add_completion=False, help=__doc__)


def interleaved(runs: Mapping[str, Callable[[int], Any]], rounds: int) -> dict[str, float]:
    """Median milliseconds of processor time of each; they are told the number of the round."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time_ns()
            run(number)
            spent[name].append((time.process_time_ns() - start) / 1e6)
    return {name: median(times[1:]) for name, times in spent.items()}


@app.command()
def kernels(rounds: Annotated[int, typer.Option(min=1)] = 24) -> None:
    """Matrix products of the CPU backend, and the quantising of the rows that they read."""
    cpu.set_num_threads(1)
    typer.echo("rows, columns, channels, taps: ms in float32, bfloat16, int8, of quantising; int8 is faster by")
    for shape in SHAPES:
        found = interleaved(products(*shape), rounds)
        faster = found["bfloat16"] / (found["int8"] + found["quantising"])
        times = " ".join(f"{ms:8.3f}" for ms in found.values())
        typer.echo(f"{' '.join(f'{size:5}' for size in shape)}: {times}  {faster:.2f}x")


def products(rows: int, columns: int, channels: int, taps: int) -> dict[str, Callable[[int], Any]]:
    """A product in each type, and the quantising of half as many rows again as it has, which its taps read."""
    weight = torch.randn(columns, taps, channels) / (taps * channels) ** 0.5
    levels, copies = Levels.of(weight, 1), max(1, min(12, COLD // weight.numel()))
    a, out = torch.randn(2 * rows, channels), torch.empty(rows, columns)
    index = cpu.Index(torch.randint(0, 2 * rows, (rows, taps), dtype=torch.int32)) if taps > 1 else None
    near, room = cpu.Rows(a[: 3 * rows // 2].bfloat16()), cpu.Rows(spread(a[: 3 * rows // 2]))

    def product(call: Callable[..., None], a: Any, pack: Callable[[], Any], out: Any) -> Callable[[int], Any]:
        packed, read, write = [pack() for _ in range(copies)], cpu.Rows(a), cpu.Rows(out)
        return lambda number: call(write, None, read, index, packed[number % copies])

    def packed_levels() -> Any:
        return cpu.pack_levels(levels.weight, levels.scales)

    return {
        "float32": product(cpu.gemm, a, lambda: cpu.pack(weight), out),
        "bfloat16": product(cpu.gemm, a.bfloat16(), lambda: cpu.pack(weight.bfloat16()), out.bfloat16()),
        "int8": product(cpu.int8_gemm, spread(a), packed_levels, out.bfloat16()),
        "quantising": lambda number: cpu.copy_rows(room, None, near),
    }


@app.command()
def network(
    name: str,
    policy: str = "balanced",
    edit: float = 0.012,
    rounds: int = 6,
    tiny: bool = False,
    everything: Annotated[bool, typer.Option("--everything", help="In int8 whatever it costs.")] = False,
) -> None:
    """Updates of a network with random weights in bfloat16 and in int8, and how far their results are apart."""
    torch.set_num_threads(1)
    if everything:
        arithmetic.BUDGET = float("inf")
    chosen, results, runs = models.get(name), {}, {}
    mask = square(edit, chosen.image_size(tiny)).mask
    region, inputs = retouch.Region.from_mask(mask), chosen.inputs(tiny, torch.bfloat16)
    edited = chosen.edited(inputs, mask)
    for kind, products in (("bfloat16", "float"), ("int8", "int8")):
        module = chosen.build(tiny, torch.bfloat16)
        net = retouch.compile(module, inputs.args, inputs.kwargs, policy=policy, arithmetic=products)
        _, recording = net.record(*inputs.args, **inputs.kwargs)

        def update(_: int, kind: str = kind, net: Any = net, recording: Any = recording) -> None:
            results[kind] = models.tensor_of(net.update(recording, region, *edited.args, **edited.kwargs)).float()
            recording.undo()

        runs[kind] = update
    report, schedule = net.explain(region), net.schedules.of(region, frozenset()).schedule
    typer.echo(f"{report.in_int8:.1%} of the arithmetic of products in int8, {len(schedule.steps)} calls")
    found = interleaved(runs, rounds)
    apart = float((results["int8"] - results["bfloat16"]).norm() / results["bfloat16"].norm())
    typer.echo(f"{name}, {policy}, {edit:.1%}: " + ", ".join(f"{kind} {ms:.1f} ms" for kind, ms in found.items()))
    typer.echo(f"{found['bfloat16'] / found['int8']:.2f}x; results are {apart:.2%} apart")


if __name__ == "__main__":
    app()
