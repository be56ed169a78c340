"""Predicted times of networks on devices, beside SIGE's published measurements; nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from rich.table import Table

from retouch import models
from retouch.bench.devices import Device, device
from retouch.bench.edits import Edit, square
from retouch.bench.networks import chosen_policy
from retouch.bench.predict import (
    BANDWIDTH_EFFICIENCY,
    SPLITS,
    TILES,
    TYPICAL_EFFICIENCY,
    Model,
    fitted_efficiency,
    predict,
)
from retouch.bench.published import REFERENCE, SIGE, Published, measured
from retouch.bench.report import Result, compact_table, figure, markdown_table, times
from retouch.bench.workload import Update, Work, dense_work, lowered, update_work
from retouch.incremental import planned
from retouch.ir.program import Program
from retouch.models import Network
from retouch.plan.region import Policy, Region

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
        policy: Policy = chosen_policy(name)
        published = self.published(network)
        if published and name == "paper":
            policy = replace(policy, **published.policy)
        return policy if self.dilate is None else replace(policy, dilate=self.dilate)


def forecast(options: ForecastOptions, tick: Tick = lambda text: None) -> Iterator[Result]:
    """Predict every network under every policy for every edit and device; yields a result for each.

    `tick` is told what comes next.
    """
    for name in options.models:
        yield from _forecast_network(options, models.get(name), tick)


@dataclass(frozen=True)
class Runs:
    """The work of a dense run and of one update."""

    network: Network
    policy: str
    edit: Edit
    dense: Sequence[Work]
    update: Update


def _forecast_network(options: ForecastOptions, network: Network, tick: Tick) -> Iterator[Result]:
    tick(f"{network.name}: capturing")
    program = lowered(network, options.image(network), options.tiny, STORED[options.dtype])
    found = _efficiencies(options, network, program)
    for name in options.policies:
        tick(f"{network.name}, {name}: making schedules")
        for runs in _runs(options, network, program, name):
            for on in options.devices:
                yield _result(options, runs, Model(device(on), options.dtype, found[on]))


def _runs(options: ForecastOptions, network: Network, program: Program, name: str) -> Iterator[Runs]:
    policy = options.policy(name, network)
    plan = planned(program, policy)
    dense = dense_work(plan, policy)
    for edit in options.edits_of(network):
        yield Runs(network, name, edit, dense, update_work(plan, policy, Region.from_mask(edit.mask)))


def _efficiencies(options: ForecastOptions, network: Network, program: Program) -> dict[str, float]:
    """By device: fitted to its published dense time, or else to that of the reference device."""
    published = options.published(network)
    if published is None:
        return dict.fromkeys(options.devices, TYPICAL_EFFICIENCY)
    if STORED[options.dtype] != torch.float32:
        program = lowered(network, published.image, False, torch.float32)
    policy = Policy.named("paper")
    work = dense_work(planned(program, policy), policy)
    fitted_on = {name: name if name in published.dense_ms else REFERENCE for name in options.devices}
    return {
        name: fitted_efficiency(work, device(known), published.dense_ms[known]) for name, known in fitted_on.items()
    }


def _result(options: ForecastOptions, runs: Runs, model: Model) -> Result:
    network, dense, update = runs.network, predict(runs.dense, model), predict(runs.update.work, model)
    return {
        "predicted": True,
        "device": model.device.name,
        "dtype": options.dtype,
        "model": network.name,
        "tiny": options.tiny,
        "image": list(options.image(network)),
        "policy": runs.policy,
        "dilate": options.policy(runs.policy, network).dilate,
        "edit": runs.edit.fraction,
        "edit_label": runs.edit.label,
        "efficiency": model.efficiency,
        "macs_dense": dense.macs,
        "macs_active": update.macs,
        "launches": update.launches,
        "dense_ms": dense.ms,
        "update_ms": update.ms,
        "speedup": dense.ms / update.ms,
        **_with_graphs(runs, model),
        "read_bytes": runs.update.read,
        "transfer_ms": model.transfer(runs.update.read) * 1e3 if model.device.host else None,
        "bounds": update.shares,
        "sige": measured(options.published(network), runs.edit.fraction, model.device.name),
    }


def _with_graphs(runs: Runs, model: Model) -> Result:
    if model.device.graph_us is None:
        return {"update_graph_ms": None, "speedup_graph": None}
    replayed = replace(model, graphs=True)
    dense, update = predict(runs.dense, replayed), predict(runs.update.work, replayed)
    return {"update_graph_ms": update.ms, "speedup_graph": dense.ms / update.ms}


# Tables

_TITLES = (
    "GMAC\nof dense",
    "dense\nSIGE",
    "update\ngraphs",
    "speed-\nup",
    "arithmetic\nbytes\nlaunches",
    "SIGE\nmeasured",
)


def forecast_tables(results: Sequence[Result]) -> list[Table]:
    """A table of predictions for each device, 80 columns wide; times in ms."""
    return [
        compact_table(_title(on, lines), ("network\npolicy, edit", *_TITLES), map(_row, lines))
        for on, lines in _by_device(results)
    ]


def _by_device(results: Sequence[Result]) -> list[tuple[Device, list[Result]]]:
    names = dict.fromkeys(each["device"] for each in results)
    return [(device(name), [each for each in results if each["device"] == name]) for name in names]


def _title(on: Device, results: Sequence[Result]) -> str:
    return f"PREDICTED, not measured: {on.title}, {results[0]['dtype']} (ms)"


def _row(result: Result) -> list[str]:
    sige = result["sige"]
    return [
        f"{result['model']}\n{result['policy']}, {result['edit_label']}",
        f"{_giga(result['macs_active'])}\nof {_giga(result['macs_dense'])}",
        f"{figure(result['dense_ms'])}\n{figure(sige['dense_ms'])}",
        f"{figure(result['update_ms'])}\n{figure(result['update_graph_ms'])}",
        f"{times(result['speedup'])}\n{times(result['speedup_graph'])}",
        "\n".join(f"{share:.0%}" for share in result["bounds"].values()),
        f"{figure(sige['gmacs_active'], ' GMAC')}\n{figure(sige['update_ms'], ' ms')}\n{times(sige['speedup'])}",
    ]


def _giga(macs: int) -> str:
    return figure(macs / 1e9)


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
        *(_facts(on, lines) for on, lines in _by_device(results)),
    ]


def _facts(on: Device, results: Sequence[Result]) -> str:
    dtype = results[0]["dtype"]
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


_COLUMNS = (
    "network", "policy", "edit", "GMAC dense", "active", "dense ms", "update ms", "in graphs", "speed-up", "in graphs",
    "arithmetic / bytes / launches", "read MB", "from host ms", "SIGE: GMAC dense", "active", "dense ms",
    "update ms", "speed-up",
)  # fmt: skip


def forecast_markdown(results: Sequence[Result], command: str) -> str:
    """The report: a table for each device, and the assumptions."""
    parts = ["# Predictions", f"`{command}`: a cost model's figures, beside what SIGE's authors measured."]
    parts += ["Speed-ups and shares are of the predicted update; *in graphs*: replayed from CUDA graphs."]
    for on, lines in _by_device(results):
        parts += [f"## {_title(on, lines)}", markdown_table(_COLUMNS, map(_cells, lines))]
    parts += ["## Assumptions", "\n".join(f"- {each}" for each in assumptions(results))]
    return "\n\n".join(parts) + "\n"


def _cells(result: Result) -> list[str]:
    sige = result["sige"]
    return [
        result["model"],
        result["policy"],
        result["edit_label"],
        _giga(result["macs_dense"]),
        _giga(result["macs_active"]),
        *map(figure, (result["dense_ms"], result["update_ms"], result["update_graph_ms"])),
        times(result["speedup"]),
        times(result["speedup_graph"]),
        " / ".join(f"{share:.0%}" for share in result["bounds"].values()),
        figure(result["read_bytes"] / 1e6),
        figure(result["transfer_ms"]),
        *map(figure, (sige["gmacs_dense"], sige["gmacs_active"], sige["dense_ms"], sige["update_ms"])),
        times(sige["speedup"]),
    ]
