"""Dense runs, recordings and updates of named networks with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from retouch import models
from retouch.bench import options
from retouch.bench.dense import dense_runs, peer_runs, run_dense
from retouch.bench.edits import Edit, edits_of
from retouch.bench.harness import RESTLESS, Progress, Suite, backend_of, busy
from retouch.bench.report import Column, Result, figure, giga, times
from retouch.bench.trial import Case, Trial, on
from retouch.errors import OptionError
from retouch.models import Inputs, Network
from retouch.plan.explain import Explanation
from retouch.plan.policy import Policy

BUSY = "Dense times of {} vary by more than half: is the machine busy? Measure again."
ALLOCATOR = (
    "Eager PyTorch loses time to page faults under stock malloc. For a dense baseline without them, run again with "
    "MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456 in the environment."
)


def _policy(row: Mapping[str, Any]) -> str:
    """The policy of a row, and what became of texts where it was said."""
    return f"{row['policy']}, text {row['text']}" if row.get("text") else str(row["policy"])


def _faster(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    """By how much a time of a row is less than that of a dense run."""
    return lambda row: row["dense_ms"] / row[key] if row[key] else None


COLUMNS = [
    Column("model", "network"),
    Column("", "policy, edit", value=lambda row: f"{_policy(row)}, {row['edit_label']}", below=True),
    Column("dtype", "type", lambda name: "" if name == "float32" else name, below=True),
    Column("dense_ms", "dense", figure),
    Column("dense_kind", "kind", lambda kind: kind.removeprefix("channels_"), below=True),
    Column("record_ms", "record", figure),
    Column("record_over_dense", "/ dense", times, lambda row: row["record_ms"] / row["dense_ms"], below=True),
    Column("update_ms", "update", figure),
    Column("predicted_ms", "predicted", figure, below=True, none=""),
    Column("update_replayed_ms", "graphs", figure, below=True, none=""),
    Column("speedup", "speed-\nup", times, _faster("update_ms")),
    Column("speedup_replayed", "graphs", times, _faster("update_replayed_ms"), below=True, none=""),
    Column("macs_active", "GMAC", giga),
    Column("macs_dense", "of all", giga, below=True),
    Column("kept_bytes", "kept", options.size_text),
    Column("rel_err", "error", "{:.2g}".format),
    Column("outside_unchanged", "outside", lambda same: "" if same else "changed!", below=True),
]


@dataclass(frozen=True)
class Networks(options.Networks, Suite):
    """Raises OptionError for what there is not, or not together."""

    columns: ClassVar[Sequence[Column]] = COLUMNS
    title: ClassVar[str] = "Dense, record and update (medians, ms)"
    caption: ClassVar[str] = "error: relative L2 in the active rows, random weights"

    def check(self) -> None:
        self.ways()
        for name in self.model:
            self.edits(models.get(name))
        for dtype in self.dtype:
            self.checked_type(dtype)

    def ways(self) -> list[tuple[Policy, str | None]]:
        """Policies with what becomes of texts: None where that is the policy's. PolicyError for what they cannot be."""
        ways = product(self.policy, self.text or (None,))
        return [(Policy.named(name, dilate=self.dilate, text=text), text) for name, text in ways]

    def edits(self, network: Network) -> list[Edit]:
        """The edits of a network."""
        return edits_of(self.edit, self.mask, network.image_size(self.tiny))

    @property
    def place(self) -> str:
        """The device with its number."""
        return str(backend_of(self.backend, self.device).device)

    def checked_type(self, name: str) -> torch.dtype:
        """The type of that name, of "int8" the fastest one here; OptionError unless the backend computes in it."""
        backend = backend_of(self.backend, self.device)
        found: torch.dtype = backend.native if name == "int8" else getattr(torch, name)
        if found not in backend.dtypes:
            types = " or ".join(str(dtype).removeprefix("torch.") for dtype in backend.dtypes)
            raise OptionError(f"--dtype {name}: the {backend.name} backend computes in {types} on {backend.device}")
        return found

    def built(self, name: str, dtype: str) -> tuple[nn.Module, Inputs, list[Case]]:
        """A network of a type on the device, its inputs and its edits."""
        network, weights = models.get(name), self.checked_type(dtype)
        inputs, edits = network.inputs(self.tiny, weights), self.edits(network)
        cases = [Case(edit, on(network.edited(inputs, edit.mask), self.place)) for edit in edits]
        return network.build(self.tiny, weights).to(self.place), on(inputs, self.place), cases

    def measure(self, progress: Progress) -> Iterator[Mapping[str, Any]]:
        for (name, dtype), part in progress.over(list(product(self.model, self.dtype))):
            part.say(f"{name}: building")
            module, inputs, cases = self.built(name, dtype)
            dense = {**dense_runs(module, inputs, not self.no_compile), **peer_runs(self.peer, module, inputs)}
            for (policy, text), of_policy in part.over(self.ways()):
                of_policy.say(f"{name}, {policy.name}: compiling")
                trial = Trial(name, module, inputs, policy, self.backend, list(map(replace, cases)), dense, dtype)
                trial.run(self.repeat, of_policy)
                for case in trial.cases:
                    before, after = trial.outputs(case)
                    active = trial.net.active_mask(case.region).unsqueeze(1).expand_as(after)
                    yield {
                        "tiny": self.tiny,
                        "dilate": self.dilate,
                        "text": text,
                        "dtype": dtype,
                        "device": self.place,
                        "dense_channels_last_ms": None,
                        "dense_compiled_ms": None,
                        **trial.found(case),
                        **compare(before, after, run_dense(module, case.edited).cpu(), active),
                    }
                del trial
            del module, dense
            torch._dynamo.reset()

    def explanation(self) -> Explanation:
        """`explain` of the first model, type, policy and edit; nothing is timed."""
        module, inputs, cases = self.built(self.model[0], self.dtype[0])
        trial = Trial(self.model[0], module, inputs, self.ways()[0][0], self.backend, cases, {}, self.dtype[0])
        found: Explanation = trial.net.explain(cases[0].region)
        return found

    def notes(self, results: Sequence[Result]) -> list[str]:
        uneven = {each["model"] for each in results if busy([each["spread"][each["dense_kind"]]]) > RESTLESS}
        return [*(BUSY.format(name) for name in sorted(uneven)), ALLOCATOR]


def compare(before: Tensor, after: Tensor, truth: Tensor, active: Tensor) -> Result:
    """Errors of `after` against `truth` where `active`, and whether the rest equals `before`.

    All are [B, C, H, W], `active` bool. `rel_err` and `max_abs_err` are taken over the active rows,
    `rel_err_image` over the whole output; `rel_change` is how far the dense result moved there, the error of
    doing nothing.
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
