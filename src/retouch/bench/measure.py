"""Interleaved rounds of dense, record and update, and the figures they give."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

import retouch
from retouch import models
from retouch.bench import machine
from retouch.bench.dense import CHANNELS_LAST, COMPILED, EAGER, dense_runs, run_dense
from retouch.bench.edits import Edit
from retouch.bench.timing import Stopwatch
from retouch.kernels.devices import moved
from retouch.models import Inputs, Network, tensor_of
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store

Tick = Callable[[str], None]
Result = dict[str, Any]

# Updates are short beside a dense run: taking several in each round steadies their median.
UPDATES_PER_ROUND = 3


@dataclass(frozen=True)
class Options:
    """What to measure. `edits` makes the edits for an image size (H, W) in pixels."""

    models: Sequence[str]
    edits: Callable[[tuple[int, int]], Sequence[Edit]]
    policies: Sequence[str] = ("balanced",)
    dtypes: Sequence[torch.dtype] = (torch.float32,)
    device: str = "cpu"
    backend: str = "auto"
    dilate: int | None = None
    compile_dense: bool = True
    repeat: int = 5
    tiny: bool = False

    @property
    def steps(self) -> int:
        """How often `tick` will be called: for each build, compilation and round."""
        return len(self.dtypes) * len(self.models) * (1 + len(self.policies) * (self.repeat + 2))


@dataclass
class Case:
    """One edit of one network: what is passed to update, the region where that is always the same one, and where
    its times go.
    """

    edit: Edit
    edited: Inputs
    region: retouch.Region
    watch: Stopwatch


@dataclass
class Group:
    """One network under one policy, with everything its rounds run.

    `snapshot` is what sessions update, on backends that repeat calls in one launch for them; else None.
    """

    network: Network
    policy: str
    net: Any
    inputs: Inputs
    dense: Mapping[str, Callable[[], Tensor]]
    cases: Sequence[Case]
    watch: Stopwatch
    compile_s: float
    snapshot: Snapshot | None = None


def measure(options: Options, tick: Tick = lambda text: None) -> Iterator[Result]:
    """Measure every model in every type under every policy with every edit; yields a result for each.

    `tick` is told what comes next. Each round runs everything once, one after the
    other, so that a slow moment of the machine meets all of them; the first round
    warms up and is not counted.
    """
    for name, dtype in product(options.models, options.dtypes):
        yield from _measure_model(options, models.get(name), dtype, tick)
        torch._dynamo.reset()
        gc.collect()


def _measure_model(options: Options, network: Network, dtype: torch.dtype, tick: Tick) -> Iterator[Result]:
    tick(f"{network.name}: building")
    module = network.build(options.tiny, dtype).to(options.device)
    inputs = network.inputs(options.tiny, dtype)
    dense = dense_runs(module, _on(inputs, options.device), options.compile_dense)
    for policy in options.policies:
        machine.reset_peak()
        tick(f"{network.name}, {policy}: compiling")
        group = _group(options, network, policy, module, inputs, dense)
        _rounds(group, options.repeat, tick)
        for case in group.cases:
            yield _result(options, group, case, module)


def chosen_policy(name: str, dilate: int | None = None) -> Any:
    """The named policy, with another dilation in mask pixels if one is given."""
    policy = retouch.Policy.named(name)
    return policy if dilate is None else replace(policy, dilate=dilate)


def _group(
    options: Options,
    network: Network,
    policy: str,
    module: nn.Module,
    inputs: Inputs,
    dense: Mapping[str, Callable[[], Tensor]],
) -> Group:
    given = _on(inputs, options.device)
    start = time.perf_counter()
    net = retouch.compile(
        module,
        given.args,
        kwargs=dict(given.kwargs) or None,
        policy=chosen_policy(policy, options.dilate),
        backend=options.backend,
    )
    compile_s = time.perf_counter() - start
    edits = options.edits(network.image_size(options.tiny))
    wait = machine.waiting(options.device)
    edited = [_on(network.edited(inputs, edit.mask), options.device) for edit in edits]
    cases = [
        Case(edit, changed, retouch.Region.from_mask(edit.mask), Stopwatch(wait))
        for edit, changed in zip(edits, edited, strict=True)
    ]
    group = Group(network, policy, net, given, dense, cases, Stopwatch(wait), compile_s)
    if net.backend.graphs:
        group.snapshot = Snapshot.of(_record(group)[1], Store(device=net.backend.device))
    return group


def _on(inputs: Inputs, device: str) -> Inputs:
    """The arguments on a device."""
    return Inputs(*moved((inputs.args, dict(inputs.kwargs)), device))


def _rounds(group: Group, repeat: int, tick: Tick) -> None:
    for number in range(repeat + 1):
        what = f"round {number} of {repeat}" if number else "warming up"
        tick(f"{group.network.name}, {group.policy}: {what}")
        for watch in (group.watch, *(case.watch for case in group.cases)):
            watch.on = number > 0
        _round(group)


def _round(group: Group) -> None:
    for kind, run in group.dense.items():
        group.watch.run(kind, run)
    _, recording = group.watch.run("record", lambda: _record(group))
    for case in group.cases:
        for _ in range(UPDATES_PER_ROUND):
            _time_update(group.net, recording, case)
            if group.snapshot:
                _time_replay(group.net, group.snapshot, case)


def _record(group: Group) -> tuple[Any, Any]:
    recorded: tuple[Any, Any] = group.net.record(*group.inputs.args, **group.inputs.kwargs)
    return recorded


def _time_update(net: Any, recording: Any, case: Case) -> None:
    """An update with a new region, undone, and again with the same region."""
    args, kwargs = case.edited.args, case.edited.kwargs

    def fresh() -> Any:
        region = retouch.Region.from_mask(case.edit.mask)
        net.update(recording, region, *args, **kwargs)
        return region

    region = case.watch.run("update", fresh)
    case.watch.run("undo", recording.undo)
    case.watch.run("update_cached", lambda: net.update(recording, region, *args, **kwargs))
    recording.undo()


def _time_replay(net: Any, snapshot: Snapshot, case: Case) -> None:
    """An update as sessions make it, with the same region every time."""
    args, kwargs = case.edited.args, case.edited.kwargs
    case.watch.run("update_replayed", lambda: net.update(snapshot.recording(), case.region, *args, **kwargs))


def _result(options: Options, group: Group, case: Case, module: nn.Module) -> Result:
    info = group.net.explain(case.region)
    return {
        "model": group.network.name,
        "tiny": options.tiny,
        "edit": case.edit.fraction,
        "edit_label": case.edit.label,
        "policy": group.policy,
        "dilate": options.dilate,
        "dtype": str(next(module.parameters()).dtype).removeprefix("torch."),
        "device": options.device,
        "backend": options.backend,
        **_times(group, case),
        "macs_dense": int(info.macs_dense),
        "macs_active": int(info.macs_active),
        "fallbacks": [str(each) for each in info.fallbacks],
        "kept_bytes": int(info.kept_bytes),
        "packed_bytes": getattr(group.net, "packed_bytes", None),
        "compile_s": group.compile_s,
        **_errors(group, case, module),
        "peak_rss_bytes": machine.peak_rss(),
        "machine": machine.facts(options.device),
    }


def _times(group: Group, case: Case) -> Result:
    dense = {kind: group.watch.median(kind) for kind in group.dense}
    kind = min(dense, key=lambda each: dense[each])
    record = group.watch.median("record")
    update = case.watch.median("update")
    replayed = case.watch.median("update_replayed") if group.snapshot else None
    spread = {name: group.watch.spread(name) for name in (*dense, "record")}
    spread |= {name: case.watch.spread(name) for name in ("update", "update_cached", "undo")}
    return {
        "dense_ms": dense[kind],
        "dense_kind": kind,
        "dense_eager_ms": dense[EAGER],
        "dense_channels_last_ms": dense[CHANNELS_LAST],
        "dense_compiled_ms": dense.get(COMPILED),
        "record_ms": record,
        "record_over_dense": record / dense[kind],
        "update_ms": update,
        "update_cached_ms": case.watch.median("update_cached"),
        "update_replayed_ms": replayed,
        "first_record_ms": group.watch.first["record"],
        "first_update_ms": case.watch.first["update"],
        "undo_ms": case.watch.median("undo"),
        "speedup": dense[kind] / update,
        "speedup_replayed": dense[kind] / replayed if replayed else None,
        "spread": spread,
    }


def _errors(group: Group, case: Case, module: nn.Module) -> Result:
    """Errors of the updated output against the dense module on the edited input."""
    before, recording = _record(group)
    before = tensor_of(before).cpu().clone()
    after = tensor_of(group.net.update(recording, case.region, *case.edited.args, **case.edited.kwargs)).cpu()
    truth = run_dense(module, case.edited).cpu()
    active = group.net.active_mask(case.region).unsqueeze(1).expand_as(truth)
    return compare(before, after, truth, active)


def compare(before: Tensor, after: Tensor, truth: Tensor, active: Tensor) -> Result:
    """Errors of `after` against `truth` where `active`, and whether the rest equals `before`.

    All are [B, C, H, W], `active` bool. `rel_err` and `max_abs_err` are taken over the
    active rows, `rel_err_image` over the whole output; `rel_change` is how far the
    dense result moved there, the error of doing nothing.
    """
    before, after, truth = before.double(), after.double(), truth.double()
    error = (after - truth).abs()
    return {
        "max_abs_err": float(error[active].max()) if active.any() else 0.0,
        "rel_err": _ratio(error[active], truth[active]),
        "rel_err_image": _ratio(error, truth),
        "rel_change": _ratio((before - truth)[active], truth[active]),
        "outside_unchanged": bool(torch.equal(after[~active], before[~active])),
    }


def _ratio(error: Tensor, reference: Tensor) -> float:
    norm = float(reference.norm())
    return float(error.norm()) / norm if norm else 0.0


def explanation(options: Options) -> Any:
    """`explain` of the first model, type, policy and edit in `options`; nothing is timed."""
    network = models.get(options.models[0])
    module = network.build(options.tiny, options.dtypes[0])
    inputs = network.inputs(options.tiny, options.dtypes[0])
    group = _group(options, network, options.policies[0], module, inputs, {})
    return group.net.explain(group.cases[0].region)
