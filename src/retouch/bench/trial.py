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
    return Inputs(*moved((inputs.args, dict(inputs.kwargs)), device))


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


class Trial:
    """One network under one policy, its dense runs by kind, and edits to update it with.

    On backends that repeat calls in one launch updates are made as sessions make them, too.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        inputs: Inputs,
        policy: retouch.Policy,
        backend: str,
        cases: Sequence[Case],
        dense: Mapping[str, Callable[[], Tensor]],
        arithmetic: str = "float",
    ) -> None:
        self.name, self.module, self.cases, self._inputs, self._dense = name, module, cases, inputs, dense
        self._asked = {"model": name, "policy": policy.name, "backend": backend}
        settings: dict[str, Any] = {"policy": policy, "backend": backend, "arithmetic": arithmetic}
        compiled = partial(retouch.compile, module, inputs.args, dict(inputs.kwargs) or None, **settings)
        self.net: Any
        self.net, self._compile_ms = timed(compiled)
        self._title = f"{name}, {policy.name}"
        self._recording: Any = None
        self._snapshot: Snapshot | None = None

    def run(self, rounds: int, progress: Progress) -> None:
        """Run everything once in each round, and once before, to warm up."""
        if self.net.backend.graphs:
            self.record()
            self._snapshot = Snapshot.of(self._recording, Store(device=self.net.backend.device))
            self._drop()
        self._memory = machine.PeakMemory()
        self._experiment: Experiment[Case | str] = Experiment(
            [WHOLE, *self.cases],
            self._variants,
            rounds,
            wait=machine.waiting(str(self.net.backend.device)),
            done=self._drop,
            memory=self._memory,
        )
        self._experiment.run(progress, self._title)

    def record(self) -> Tensor:
        """Record the inputs anew; the output's first tensor."""
        output, self._recording = self.net.record(*self._inputs.args, **self._inputs.kwargs)
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
            return [*(Variant(kind, run) for kind, run in self._dense.items()), Variant("record", self.record)]
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
        ran, info = self._experiment, self.net.explain(case.region)
        dense = {kind: ran.median(WHOLE, kind) for kind in self._dense}
        best = min(dense, key=lambda kind: dense[kind])
        decision = self.net.planner.choose(self.net.active(case.region))
        steps = ("update", "update_cached", "undo")
        return {
            **self._asked,
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
            "predicted_ms": decision.predicted_new_ms,
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
