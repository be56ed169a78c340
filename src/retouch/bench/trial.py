"""A compiled network in rounds of dense runs, a recording and updates: what networks and halos are measured by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from torch import Tensor, nn

import retouch
from retouch.bench import machine
from retouch.bench.edits import Edit
from retouch.bench.harness import Experiment, Progress, Variant, timed
from retouch.bench.report import Result
from retouch.kernels.devices import moved
from retouch.models import Inputs, tensor_of
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store

UPDATES_PER_ROUND = 3
"""Updates are short beside a dense run: several in each round steady their median."""

MANY = 20
"""Updates that a region is taken to have which comes again and again, as those of a session's steps."""

WHOLE = "the whole image"
"""The case of dense runs and recordings."""


def on(inputs: Inputs, device: str) -> Inputs:
    """The arguments on a device."""
    return Inputs(*moved((inputs.args, inputs.kwargs), device))


@dataclass(eq=False)
class Case:
    """An edit, the edited inputs, and pixels that are computed around it."""

    edit: Edit
    edited: Inputs
    halo: int = 0

    @cached_property
    def region(self) -> retouch.Region:
        """Where it is updated."""
        return retouch.Region.from_mask(self.edit.mask).dilated(self.halo)


@dataclass(eq=False)
class Trial:
    """One network under one policy, its dense runs by kind, and edits to update it with.

    dtype: of the weights, or "int8" for products in that. On backends that repeat calls in one launch updates are made
    as sessions make them, too.
    """

    name: str
    module: nn.Module
    inputs: Inputs
    policy: retouch.Policy
    backend: str
    cases: Sequence[Case]
    dense: Mapping[str, Callable[[], Tensor]]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        settings: dict[str, Any] = {"policy": self.policy, "backend": self.backend}
        settings["arithmetic"] = "int8" if self.dtype == "int8" else "float"
        given = self.inputs.args, self.inputs.kwargs or None
        self.net: Any
        self.net, self._compile_ms = timed(lambda: retouch.compile(self.module, *given, **settings))
        self._recording: Any = None
        self._snapshot: Snapshot | None = None

    def run(self, rounds: int, progress: Progress) -> None:
        """Run everything once in each round, and once before, to warm up."""
        device = self.net.backend.device
        if self.net.backend.graphs:
            self.record()
            self._snapshot = Snapshot.of(self._recording, Store(device=device))
            self._drop()
        self._memory = machine.PeakMemory()
        cases: list[Case | str] = [WHOLE, *self.cases]
        wait = machine.waiting(str(device))
        self._ran = Experiment(cases, self._variants, rounds, wait=wait, done=self._drop, memory=self._memory)
        self._ran.run(progress, f"{self.name}, {self.policy.name}")

    def record(self) -> Tensor:
        """Record the inputs anew; the output's first tensor."""
        output, self._recording = self.net.record(*self.inputs.args, **self.inputs.kwargs)
        return tensor_of(output)

    def outputs(self, case: Case) -> tuple[Tensor, Tensor]:
        """The first output as recorded, and updated, on the host."""
        if self._recording is None:
            self._before = self.record().cpu().clone()
        after = tensor_of(self._update(case)).cpu().clone()
        self._undo()
        return self._before, after

    def _update(self, case: Case, recording: Any = None, uses: int = 1) -> Any:
        recording = recording or self._recording
        recording.uses = uses
        return self.net.update(recording, case.region, *case.edited.args, **case.edited.kwargs)

    def _make_known(self, case: Case) -> None:
        self._update(case, uses=MANY)
        self._undo()

    def _drop(self) -> None:
        """Let the recording go, so that the next one may take over its memory."""
        self._recording = None

    def _undo(self, _: Any = None) -> None:
        self._recording.undo()

    def _variants(self, case: Case | str) -> list[Variant]:
        """An update with a new region, undone, and with one that comes again and again; and as sessions make it."""
        if not isinstance(case, Case):
            return [*(Variant(kind, run) for kind, run in self.dense.items()), Variant("record", self.record)]
        update = partial(self._update, case)
        variants = [
            Variant("update", update, before=self.net.forget),
            Variant("undo", self._undo),
            Variant("update_cached", update, self._undo, before=lambda: self._make_known(case)),
        ]
        if snapshot := self._snapshot:
            replay = lambda: update(snapshot.recording(), MANY)  # noqa: E731
            variants.append(Variant("update_replayed", replay, before=replay))
        return variants * UPDATES_PER_ROUND

    def found(self, case: Case) -> Result:
        """What was measured, and where; times of the rounds, arithmetic and memory of an edit."""
        ran, info = self._ran, self.net.explain(case.region)
        dense = {kind: ran.median(WHOLE, kind) for kind in self.dense}
        best = min(dense, key=dense.__getitem__)
        steps = ("update", "update_cached", "undo")
        return {
            "model": self.name,
            "policy": self.policy.name,
            "backend": self.backend,
            "edit": case.edit.fraction,
            "edit_label": case.edit.label,
            "machine": machine.facts(str(self.net.backend.device)),
            "dense_ms": dense[best],
            "dense_kind": best,
            **{f"dense_{kind}_ms": ms for kind, ms in dense.items()},
            "record_ms": ran.median(WHOLE, "record"),
            "first_record_ms": ran.first(WHOLE, "record"),
            "first_update_ms": ran.first(case, "update"),
            **{f"{step}_ms": ran.median(case, step) for step in steps},
            "predicted_ms": self.net.planner.choose(self.net.active(case.region)).predicted_new_ms,
            "update_replayed_ms": ran.median(case, "update_replayed") if self._snapshot else None,
            "spread": ran.spread(WHOLE, *dense, "record") | ran.spread(case, *steps),
            "macs_dense": int(info.macs_dense),
            "macs_active": int(info.macs_active),
            "fallbacks": [str(each) for each in info.fallbacks],
            "kept_bytes": int(info.kept_bytes),
            "packed_bytes": getattr(self.net, "packed_bytes", None),
            "compile_s": self._compile_ms / 1e3,
            "peak_rss_bytes": self._memory.rss,
        }
