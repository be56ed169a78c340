"""Predicted times of networks on devices, beside SIGE's published measurements; nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from rich.table import Table
from torch import nn

from retouch import kernels, models
from retouch.bench.edits import Edit, square
from retouch.bench.networks import chosen_policy
from retouch.bench.published import REFERENCE, SIGE, Published, measured
from retouch.bench.report import Result, compact_table, figure, markdown_table, times
from retouch.frontend.capture import capture
from retouch.frontend.lowering import lower
from retouch.frontend.signature import Signature
from retouch.incremental import planned
from retouch.ir.program import Program
from retouch.kernels.devices import moved
from retouch.models import Network
from retouch.passes import fuse
from retouch.plan import activity
from retouch.plan.choose import Planner
from retouch.plan.meter import Run
from retouch.plan.peaks import BANDWIDTH_EFFICIENCY, SPLITS, TILES, TYPICAL_EFFICIENCY, Peaks, device, fitted_efficiency
from retouch.plan.policy import Policy
from retouch.plan.region import Region
from retouch.runtime.emitter import dirty_values
from retouch.runtime.weights import Weights

Tick = Callable[[str], None]

STORED = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The type that rows and weights are stored in, by the type that products are computed in."""


@dataclass(frozen=True)
class ForecastOptions:
    """What to predict. `edits` makes the edits for an image size (H, W) in pixels; None: those that SIGE's
    authors measured, or `edit` where they did not. Raises ValueError for a device or type without figures.
    """

    models: Sequence[str]
    devices: Sequence[str]
    edits: Callable[[tuple[int, int]], Sequence[Edit]] | None = None
    edit: float = 0.012
    policies: Sequence[str] = ("paper",)
    dtype: str = "float32"
    dilate: int | None = None
    tiny: bool = False

    def __post_init__(self) -> None:
        for name in self.devices:
            device(name).rate(self.dtype)

    @property
    def steps(self) -> int:
        """How often `tick` will be called."""
        return len(self.models) * (1 + len(self.policies))

    def published(self, network: Network) -> Published | None:
        """SIGE's figures for the network as it is predicted."""
        return None if self.tiny else SIGE.get(network.name)

    def image(self, network: Network) -> tuple[int, int]:
        """Pixels (H, W): those of SIGE's figures, where there are any."""
        published = self.published(network)
        return published.image if published else network.image_size(self.tiny)

    def edits_of(self, network: Network) -> Sequence[Edit]:
        """The edits of a network."""
        size, published = self.image(network), self.published(network)
        if self.edits:
            return self.edits(size)
        return [square(each.edit, size) for each in published.updates] if published else [square(self.edit, size)]

    def check_edits(self) -> None:
        """Make every edit, and so read every mask, before any long work starts."""
        for name in self.models:
            self.edits_of(models.get(name))

    def policy(self, name: str, network: Network) -> Policy:
        """The named policy; `paper` with the settings of SIGE's authors for the network."""
        policy, published = chosen_policy(name), self.published(network)
        if published and name == "paper":
            policy = replace(policy, **published.policy)
        return policy if self.dilate is None else replace(policy, dilate=self.dilate)


def forecast(options: ForecastOptions, tick: Tick = lambda text: None) -> Iterator[Result]:
    """Predict every network under every policy for every edit and device; yields a result for each.

    `tick` is told what comes next.
    """
    for network in map(models.get, options.models):
        tick(f"{network.name}: capturing")
        program = lowered(network, options.image(network), options.tiny, STORED[options.dtype])
        found = [_peaks(options, network, program, name) for name in options.devices]
        for name in options.policies:
            tick(f"{network.name}, {name}: adding up work")
            for edit in options.edits_of(network):
                yield from (_result(options, network, program, name, edit, peaks) for peaks in found)


def lowered(network: Network, image: tuple[int, int], tiny: bool, dtype: torch.dtype) -> Program:
    """The program of a network for pixels `image` (H, W), on the meta device and so without its weights."""
    with torch.device("meta"):
        module = nn.Module.to(network.make_module(tiny).eval().requires_grad_(False), dtype)
    inputs, old = network.inputs(tiny, dtype), network.image_size(tiny)
    shape = inputs.args[0].shape
    sides = [side * after // before for side, before, after in zip(shape[2:], old, image, strict=True)]
    inputs = inputs.with_image(inputs.args[0].new_zeros((*shape[:2], *sides)))
    captured = capture(module, *Signature(module, *moved((inputs.args, dict(inputs.kwargs)), "meta")).example)
    reference = kernels.backend("reference")
    program = fuse(lower(captured, reference.dtypes))
    return Weights(module, captured, program, reference).without_folded(program)


def planner(program: Program, policy: Policy, peaks: Peaks | None = None) -> Planner:
    """What decides about updates of a program on a device."""
    return Planner(planned(program, policy), policy, peaks, partial(dirty_values, program))


def _peaks(options: ForecastOptions, network: Network, program: Program, name: str) -> Peaks:
    """The device, with the efficiency that its published dense time has, or else that of the reference device."""
    published, efficiency = options.published(network), TYPICAL_EFFICIENCY
    if published is not None:
        if STORED[options.dtype] != torch.float32:
            program = lowered(network, published.image, False, torch.float32)
        known = name if name in published.dense_ms else REFERENCE
        run = planner(program, Policy.named("paper")).everything
        efficiency = fitted_efficiency(run, device(known), published.dense_ms[known])
    return Peaks(device(name), options.dtype, efficiency)


def _result(
    options: ForecastOptions, network: Network, program: Program, name: str, edit: Edit, peaks: Peaks
) -> Result:
    policy, on = options.policy(name, network), peaks.device
    plans = planner(program, policy, peaks)
    active = activity.of_update(program, Region.from_mask(edit.mask), policy)
    dense, update = plans.everything, plans.everything if plans.is_whole(active) else plans.update(active)
    graphs = replace(peaks, graphs=True) if on.graph_us is not None else None
    dense_ms, update_ms = (1e3 * peaks.update(run) for run in (dense, update))
    update_graph_ms, dense_graph_ms = (1e3 * graphs.update(run) if graphs else None for run in (update, dense))
    return {
        "predicted": True,
        "device": on.name,
        "dtype": options.dtype,
        "model": network.name,
        "tiny": options.tiny,
        "image": list(options.image(network)),
        "policy": name,
        "dilate": policy.dilate,
        "edit": edit.fraction,
        "edit_label": edit.label,
        "efficiency": peaks.efficiency,
        "macs_dense": dense.macs,
        "macs_active": update.macs,
        "launches": len(update.launches),
        "dense_ms": dense_ms,
        "update_ms": update_ms,
        "speedup": dense_ms / update_ms,
        "update_graph_ms": update_graph_ms,
        "speedup_graph": dense_graph_ms / update_graph_ms if dense_graph_ms and update_graph_ms else None,
        "read_bytes": update.recorded_bytes,
        "transfer_ms": 1e3 * peaks.transfer(update.recorded_bytes) if on.host else None,
        "bounds": bounds(update, peaks),
        "sige": measured(options.published(network), edit.fraction, on.name),
    }


def bounds(run: Run, peaks: Peaks) -> dict[str, float]:
    """What bounds a run: shares of its time. A kernel counts under what takes it longer."""
    costs = [peaks.cost(work) for work in run.launches]
    total = sum(cost.seconds for cost in costs) or 1.0
    return {
        "arithmetic": sum(c.arithmetic for c in costs if c.arithmetic > c.traffic) / total,
        "bandwidth": sum(c.traffic for c in costs if c.arithmetic <= c.traffic) / total,
        "launches": sum(c.launch for c in costs) / total,
    }


# Tables


def _giga(macs: float) -> str:
    return figure(macs / 1e9)


def _sige(name: str, shown: Callable[[float | None], str] = figure) -> Callable[[Result], str]:
    return lambda result: shown(result["sige"][name])


_COLUMNS: Sequence[tuple[str, Callable[[Result], str], bool]] = (
    ("network", lambda r: str(r["model"]), True),
    ("policy", lambda r: str(r["policy"]), True),
    ("edit", lambda r: str(r["edit_label"]), True),
    ("GMAC dense", lambda r: _giga(r["macs_dense"]), False),
    ("active", lambda r: _giga(r["macs_active"]), False),
    ("dense ms", lambda r: figure(r["dense_ms"]), True),
    ("update ms", lambda r: figure(r["update_ms"]), True),
    ("in graphs", lambda r: figure(r["update_graph_ms"]), True),
    ("speed-up", lambda r: times(r["speedup"]), True),
    ("in graphs", lambda r: times(r["speedup_graph"]), False),
    ("arithmetic / bytes / launches", lambda r: " / ".join(f"{each:.0%}" for each in r["bounds"].values()), False),
    ("read MB", lambda r: figure(r["read_bytes"] / 1e6), False),
    ("from host ms", lambda r: figure(r["transfer_ms"]), False),
    ("SIGE: GMAC dense", _sige("gmacs_dense"), False),
    ("active", _sige("gmacs_active"), False),
    ("dense ms", _sige("dense_ms"), False),
    ("update ms", _sige("update_ms"), False),
    ("speed-up", _sige("speedup", times), False),
)
"""Title, text of a result, and whether a terminal has room for it."""


def _by_device(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """Results of each device, and what their table is called."""
    found: dict[str, list[Result]] = {}
    for each in results:
        found.setdefault(each["device"], []).append(each)
    return [
        (f"PREDICTED, not measured: {device(on).title}, {lines[0]['dtype']} (ms)", lines) for on, lines in found.items()
    ]


def forecast_tables(results: Sequence[Result]) -> list[Table]:
    """A table of predictions for each device, 80 columns wide; times in ms."""
    shown = [(title, text) for title, text, terminal in _COLUMNS if terminal]
    titles = [title for title, _ in shown]
    return [
        compact_table(title, titles, ([text(each) for _, text in shown] for each in lines))
        for title, lines in _by_device(results)
    ]


def forecast_markdown(results: Sequence[Result], command: str) -> str:
    """The report: a table for each device, and the assumptions."""
    parts = ["# Predictions", f"`{command}`: a cost model's figures, beside what SIGE's authors measured."]
    parts += ["Speed-ups and shares are of the predicted update; *in graphs*: replayed from CUDA graphs."]
    titles = [title for title, _, _ in _COLUMNS]
    for title, lines in _by_device(results):
        cells = ([text(each) for _, text, _ in _COLUMNS] for each in lines)
        parts += [f"## {title}", markdown_table(titles, cells)]
    parts += ["## Assumptions", "\n".join(f"- {each}" for each in assumptions(results))]
    return "\n\n".join(parts) + "\n"


def assumptions(results: Sequence[Result]) -> list[str]:
    """What the predictions rest on, a sentence or two each."""
    tiles = ", ".join(f"{side}x{side} at {speed:.0%}" for side, speed in TILES)
    return [
        "A prediction is no measurement: no kernel was run on these devices.",
        "A kernel takes the longer of arithmetic (2 MACs / (peak x efficiency)) and traffic (bytes / (bandwidth x "
        f"{BANDWIDTH_EFFICIENCY:g})), and then its launch. Kernels run one after the other; every distinct row that a "
        "kernel reads or writes, its weights and its index tables move once; caches keep nothing between kernels.",
        f"Matrix products run in square tiles of the best size ({tiles} of the full rate), in whole waves on all "
        f"processors; a deep sum may be split in up to {SPLITS[-1]} parts, whose sums go through memory. Reading "
        "rows through an index table costs no more than reading them in order.",
        "The efficiency of arithmetic is fitted for each network so that the dense time is SIGE's published one on "
        f"the device, or on the {device(REFERENCE).title} where there is none for it; {TYPICAL_EFFICIENCY:g} for "
        "networks without any. So dense times of fitted networks agree by construction, and kernels of an update are "
        "taken to be as good as those dense ones. Nothing is fitted to times of updates: they are extrapolated, and "
        "mostly lie below what SIGE measured. Read them as what good kernels could reach.",
        "The same share of the peak is assumed for other types and for devices without published times. That is "
        "optimistic for tensor cores, which are harder to keep busy.",
        "The dense run is this package's own program with all rows active; updates include the copies that make them "
        "undoable. Making regions and index tables on the CPU is left out.",
        f"*Read* is what an update reads of the recording; *from host*: its way from pinned memory at "
        f"{BANDWIDTH_EFFICIENCY:g} of the peak of sixteen lanes of PCI Express, where the device's memory does not "
        "suffice. Sessions send it while the step before computes, so it counts only as far as it takes longer.",
        "Edits are squares of the given share; SIGE's have other shapes, and often more active rows. Under `paper` "
        "dilation and the grids that are computed whole are those of SIGE's authors for the network.",
        "Stable Diffusion is predicted at 512x1024 pixels, whose arithmetic SIGE's published figures have.",
        *(_facts(lines) for _, lines in _by_device(results)),
    ]


def _facts(results: Sequence[Result]) -> str:
    on, dtype = device(results[0]["device"]), results[0]["dtype"]
    fitted = {each["model"]: each["efficiency"] for each in results}
    shares = ", ".join(f"{name} {share:.2f}" for name, share in fitted.items())
    launches = f"{on.launch_us:g} us a launch"
    link = f" ({on.host:g} from the host)" if on.host else ""
    if on.graph_us is not None:
        launches += f", {on.graph_us:g} us in a CUDA graph"
    return (
        f"{on.title}: {on.tflops[dtype]:g} TFLOP/s {dtype}, {on.bandwidth:g} GB/s{link}, {on.processors} processors "
        f"({on.source}); assumed: {launches}. Efficiency: {shares}."
    )
