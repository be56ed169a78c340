"""Predicted times of networks on devices, beside SIGE's published measurements; nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from retouch import kernels, models
from retouch.bench import options
from retouch.bench.edits import Edit, edits_of, square
from retouch.bench.harness import Progress, Suite, chosen
from retouch.bench.published import REFERENCE, SIGE, Published, measured
from retouch.bench.report import Column, Result, column_table, figure, grouped, times, write_text
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
from retouch.plan.policy import PRESETS, Policy
from retouch.plan.region import Region
from retouch.runtime.emitter import dirty_values
from retouch.runtime.weights import Weights

STORED = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The type that rows and weights are stored in, by the type that products are computed in."""


def _giga(macs: float) -> str:
    return figure(macs / 1e9)


def _sige(key: str, title: str, text: Callable[[Any], str] = figure) -> Column:
    return Column("", title, text, lambda row: row["sige"][key], wide=True)


COLUMNS = (
    Column("model", "network"),
    Column("policy", "policy"),
    Column("edit_label", "edit"),
    Column("macs_dense", "GMAC dense", _giga, wide=True),
    Column("macs_active", "active", _giga, wide=True),
    Column("dense_ms", "dense ms", figure),
    Column("update_ms", "update ms", figure),
    Column("update_graph_ms", "in graphs", figure),
    Column("speedup", "speed-up", times),
    Column("speedup_graph", "in graphs", times, wide=True),
    Column(
        "bounds",
        "arithmetic / bytes / launches",
        lambda bounds: " / ".join(f"{each:.0%}" for each in bounds.values()),
        wide=True,
    ),
    Column("read_bytes", "read MB", lambda count: figure(count / 1e6), wide=True),
    Column("transfer_ms", "from host ms", figure, wide=True),
    _sige("gmacs_dense", "SIGE: GMAC dense"),
    _sige("gmacs_active", "active"),
    _sige("dense_ms", "dense ms"),
    _sige("update_ms", "update ms"),
    _sige("speedup", "speed-up", times),
)


@dataclass(frozen=True)
class Forecast(options.Forecast, Suite):
    """Predicts for devices by name, edits of SIGE's authors where none are named."""

    columns: ClassVar[Sequence[Column]] = COLUMNS
    by: ClassVar[str] = "device"

    def check(self) -> None:
        """Look everything up by its name, and read every mask. ValueError for a device or type without figures."""
        chosen(self.policy, PRESETS, "policy")
        for name in self.device:
            device(name).rate(self.dtype)
        for name in chosen(self.model, models.names(), "model"):
            self._edits(models.get(name))

    def measure(self, progress: Progress) -> Iterator[Mapping[str, Any]]:
        """Every network under every policy for every edit and device."""
        for network, of_network in progress.over([models.get(name) for name in self.model]):
            of_network.say(f"{network.name}: capturing")
            program = lowered(network, self._image(network), self.tiny, STORED[self.dtype])
            found = [self._peaks(network, program, name) for name in self.device]
            for name, part in of_network.over(self.policy):
                part.say(f"{network.name}, {name}: adding up work")
                for edit in self._edits(network):
                    yield from (self._result(network, program, name, edit, peaks) for peaks in found)

    def _published(self, network: Network) -> Published | None:
        """SIGE's figures for the network as it is predicted."""
        return None if self.tiny else SIGE.get(network.name)

    def _image(self, network: Network) -> tuple[int, int]:
        """Pixels (H, W): those of SIGE's figures, where there are any."""
        published = self._published(network)
        return published.image if published else network.image_size(self.tiny)

    def _edits(self, network: Network) -> Sequence[Edit]:
        size, published = self._image(network), self._published(network)
        if published and not (self.edit or self.mask):
            return [square(each.edit, size) for each in published.updates]
        return edits_of(self.edit, self.mask, size)

    def _policy(self, name: str, network: Network) -> Policy:
        """The named policy; `paper` with the settings of SIGE's authors for the network."""
        policy, published = Policy.named(name), self._published(network)
        if published and name == "paper":
            policy = replace(policy, **published.policy)
        return policy if self.dilate is None else replace(policy, dilate=self.dilate)

    def _peaks(self, network: Network, program: Program, name: str) -> Peaks:
        """The device, with the efficiency that its published dense time has, or else that of the reference device."""
        published, efficiency = self._published(network), TYPICAL_EFFICIENCY
        if published is not None:
            if STORED[self.dtype] != torch.float32:
                program = lowered(network, published.image, False, torch.float32)
            known = name if name in published.dense_ms else REFERENCE
            run = planner(program, Policy.named("paper")).everything
            efficiency = fitted_efficiency(run, device(known), published.dense_ms[known])
        return Peaks(device(name), self.dtype, efficiency)

    def _result(self, network: Network, program: Program, name: str, edit: Edit, peaks: Peaks) -> Result:
        policy, on = self._policy(name, network), peaks.device
        plans = planner(program, policy, peaks)
        active = activity.of_update(program, Region.from_mask(edit.mask), policy)
        dense, update = plans.everything, plans.everything if plans.choose(active).whole else plans.update(active)
        graphs = replace(peaks, graphs=True) if on.graph_us is not None else None
        dense_ms, update_ms = (1e3 * peaks.update(run) for run in (dense, update))
        update_graph_ms, dense_graph_ms = (1e3 * graphs.update(run) if graphs else None for run in (update, dense))
        return {
            "predicted": True,
            "device": on.name,
            "dtype": self.dtype,
            "model": network.name,
            "tiny": self.tiny,
            "image": list(self._image(network)),
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
            "sige": measured(self._published(network), edit.fraction, on.name),
        }

    def heading(self, results: Sequence[Result]) -> tuple[str, str]:
        """Of the first device."""
        first = results[0]
        return f"PREDICTED, not measured: {device(first['device']).title}, {first['dtype']} (ms)", ""

    def notes(self, results: Sequence[Result]) -> list[str]:
        """What the predictions rest on."""
        return assumptions(results)

    def write_report(self, path: Path, results: Sequence[Result], command: str) -> None:
        """A table for each device, and the assumptions."""
        parts = ["# Predictions", f"`{command}`: a cost model's figures, beside what SIGE's authors measured."]
        parts += ["Speed-ups and shares are of the predicted update; *in graphs*: replayed from CUDA graphs."]
        for part in grouped(results, "device").values():
            parts += [f"## {self.heading(part)[0]}", column_table(self.columns, part)]
        parts += ["## Assumptions", "\n".join(f"- {each}" for each in assumptions(results))]
        write_text(path, "\n\n".join(parts) + "\n")


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
    return Weights(module, captured.literals, program, reference).without_folded(program)


def planner(program: Program, policy: Policy, peaks: Peaks | None = None) -> Planner:
    """What decides about updates of a program on a device."""
    return Planner(planned(program, policy), policy, peaks, partial(dirty_values, program))


def bounds(run: Run, peaks: Peaks) -> dict[str, float]:
    """What bounds a run: shares of its time. A kernel counts under what takes it longer."""
    costs = [peaks.cost(work) for work in run.launches]
    total = sum(cost.seconds for cost in costs) or 1.0
    return {
        "arithmetic": sum(c.arithmetic for c in costs if c.arithmetic > c.traffic) / total,
        "bandwidth": sum(c.traffic for c in costs if c.arithmetic <= c.traffic) / total,
        "launches": sum(c.launch for c in costs) / total,
    }


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
        *map(_facts, grouped(results, "device").values()),
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
