"""Predicted times of networks on devices, beside SIGE's published measurements; nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from retouch import kernels, models
from retouch.bench import options
from retouch.bench.edits import Edit, edits_of, square
from retouch.bench.harness import Progress, Suite
from retouch.bench.published import REFERENCE, SIGE, Published, measured
from retouch.bench.report import Column, Result, figure, grouped, times
from retouch.frontend.signature import Signature
from retouch.incremental import lowered, planned
from retouch.ir.program import Program
from retouch.kernels.devices import moved
from retouch.models import Network
from retouch.plan import activity
from retouch.plan.choose import Planner
from retouch.plan.peaks import BANDWIDTH_EFFICIENCY, SPLITS, TILES, TYPICAL_EFFICIENCY, Peaks, device, fitted_efficiency
from retouch.plan.policy import Policy
from retouch.plan.region import Region
from retouch.runtime.emitter import dirty_values
from retouch.runtime.weights import Weights

STORED = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The type that rows and weights are stored in, by the type that products are computed in."""


def _giga(macs: float) -> str:
    return figure(macs / 1e9)


def _shares(bounds: Mapping[str, float]) -> str:
    return " / ".join(f"{each:.0%}" for each in bounds.values())


def _sige(key: str, title: str, text: Callable[[Any], str] = figure) -> Column:
    return Column("", title, text, lambda row: row["sige"][key], wide=True)


@dataclass(frozen=True)
class Forecast(options.Forecast, Suite):
    """Predicts for devices by name, edits of SIGE's authors where none are named."""

    by: ClassVar[str] = "device"
    columns: ClassVar[Sequence[Column]] = (
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
        Column("bounds", "arithmetic / bytes / launches", _shares, wide=True),
        Column("read_bytes", "read MB", lambda count: figure(count / 1e6), wide=True),
        Column("transfer_ms", "from host ms", figure, wide=True),
        _sige("gmacs_dense", "SIGE: GMAC dense"),
        _sige("gmacs_active", "active"),
        _sige("dense_ms", "dense ms"),
        _sige("update_ms", "update ms"),
        _sige("speedup", "speed-up", times),
    )

    def check(self) -> None:
        """Look everything up by its name, and read every mask. ValueError for a device or type without figures."""
        for name in self.device:
            device(name).rate(self.dtype)
        for name in self.model:
            self._target(models.get(name))

    def _target(self, network: Network) -> tuple[Published | None, tuple[int, int], Sequence[Edit]]:
        """SIGE's figures for a network as it is predicted; pixels (H, W) and edits, of these figures where it can."""
        published = None if self.tiny else SIGE.get(network.name)
        image = published.image if published else network.image_size(self.tiny)
        if published and not (self.edit or self.mask):
            return published, image, [square(each.edit, image) for each in published.updates]
        return published, image, edits_of(self.edit, self.mask, image)

    def measure(self, progress: Progress) -> Iterator[Mapping[str, Any]]:
        for network, of_network in progress.over([models.get(name) for name in self.model]):
            of_network.say(f"{network.name}: capturing")
            published, image, edits = self._target(network)
            program = program_of(network, image, self.tiny, STORED[self.dtype])
            devices = [self._peaks(network, published, program, name) for name in self.device]
            for name, part in of_network.over(self.policy):
                part.say(f"{network.name}, {name}: adding up work")
                policy = self._policy(name, published)
                for edit, peaks in product(edits, devices):
                    yield {
                        "predicted": True,
                        "device": peaks.device.name,
                        "dtype": self.dtype,
                        "model": network.name,
                        "tiny": self.tiny,
                        "image": list(image),
                        "policy": name,
                        "dilate": policy.dilate,
                        "edit": edit.fraction,
                        "edit_label": edit.label,
                        "efficiency": peaks.efficiency,
                        **_predicted(program, policy, edit, peaks),
                        "sige": measured(published, edit.fraction, peaks.device.name),
                    }

    def _policy(self, name: str, published: Published | None) -> Policy:
        """The named policy; `paper` with the settings of SIGE's authors for the network."""
        settings = published.policy if published and name == "paper" else {}
        return Policy.named(Policy.named(name, **settings), dilate=self.dilate)

    def _peaks(self, network: Network, published: Published | None, program: Program, name: str) -> Peaks:
        """The device, with the efficiency that its published dense time has, or else that of the reference device."""
        efficiency = TYPICAL_EFFICIENCY
        if published is not None:
            if STORED[self.dtype] != torch.float32:
                program = program_of(network, published.image, False, torch.float32)
            known = name if name in published.dense_ms else REFERENCE
            run = planner(program, Policy.named("paper")).everything
            efficiency = fitted_efficiency(run, device(known), published.dense_ms[known])
        return Peaks(device(name), self.dtype, efficiency)

    def heading(self, results: Sequence[Result]) -> tuple[str, str]:
        first = results[0]
        return f"PREDICTED, not measured: {device(first['device']).title}, {first['dtype']} (ms)", ""

    def notes(self, results: Sequence[Result]) -> list[str]:
        return assumptions(results)


def _predicted(program: Program, policy: Policy, edit: Edit, peaks: Peaks) -> Result:
    """What a dense run and an update take on a device."""
    plans, on = planner(program, policy, peaks), peaks.device
    active = activity.of_update(program, Region.from_mask(edit.mask), policy)
    dense, update = plans.everything, plans.everything if plans.choose(active).whole else plans.update(active)
    graphs = replace(peaks, graphs=True)
    dense_ms, update_ms, dense_graph_ms, update_graph_ms = (
        1e3 * model.update(run) for model in (peaks, graphs) for run in (dense, update)
    )
    return {
        "macs_dense": dense.macs,
        "macs_active": update.macs,
        "launches": len(update.launches),
        "dense_ms": dense_ms,
        "update_ms": update_ms,
        "speedup": dense_ms / update_ms,
        "update_graph_ms": update_graph_ms if on.graph_us else None,
        "speedup_graph": dense_graph_ms / update_graph_ms if on.graph_us else None,
        "read_bytes": update.recorded_bytes,
        "transfer_ms": 1e3 * peaks.transfer(update.recorded_bytes) if on.host else None,
        "bounds": peaks.bounds(update),
    }


def program_of(network: Network, image: tuple[int, int], tiny: bool, dtype: torch.dtype) -> Program:
    """The program of a network for pixels `image` (H, W), on the meta device and so without its weights."""
    with torch.device("meta"):
        module = nn.Module.to(network.make_module(tiny).eval().requires_grad_(False), dtype)
    inputs, old = network.inputs(tiny, dtype), network.image_size(tiny)
    shape = inputs.args[0].shape
    sides = [side * after // before for side, before, after in zip(shape[2:], old, image, strict=True)]
    inputs = inputs.with_image(inputs.args[0].new_zeros((*shape[:2], *sides)))
    signature = Signature(module, *moved((inputs.args, inputs.kwargs), "meta"))
    found = lowered(module, signature, reference := kernels.backend("reference"))
    return Weights(module, found.literals, found.program, reference).without_folded(found.program)


def planner(program: Program, policy: Policy, peaks: Peaks | None = None) -> Planner:
    """What decides about updates of a program on a device."""
    return Planner(planned(program, policy), policy, peaks, partial(dirty_values, program))


def assumptions(results: Sequence[Result]) -> list[str]:
    """What the predictions rest on, a sentence or two each, and the devices."""
    told = (
        Path(__file__)
        .with_name("assumptions.txt")
        .read_text("utf-8")
        .format(
            bandwidth=BANDWIDTH_EFFICIENCY,
            tiles=", ".join(f"{side}x{side} at {speed:.0%}" for side, speed in TILES),
            splits=SPLITS[-1],
            reference=device(REFERENCE).title,
            typical=TYPICAL_EFFICIENCY,
        )
    )
    return [*told.splitlines(), *map(_facts, grouped(results, "device").values())]


def _facts(results: Sequence[Result]) -> str:
    on, dtype = device(results[0]["device"]), results[0]["dtype"]
    fitted = {each["model"]: each["efficiency"] for each in results}
    shares = ", ".join(f"{name} {share:.2f}" for name, share in fitted.items())
    link = f" ({on.host:g} from the host)" if on.host else ""
    graphs = f", {on.graph_us:g} us in a CUDA graph" if on.graph_us is not None else ""
    return (
        f"{on.title}: {on.tflops[dtype]:g} TFLOP/s {dtype}, {on.bandwidth:g} GB/s{link}, {on.processors} processors "
        f"({on.source}); assumed: {on.launch_us:g} us a launch{graphs}. Efficiency: {shares}."
    )
