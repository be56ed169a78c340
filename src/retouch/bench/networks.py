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
from retouch.bench.dense import dense_runs, run_dense
from retouch.bench.edits import Edit, edits_of
from retouch.bench.harness import RESTLESS, Progress, Suite, backend_of, busy, chosen
from retouch.bench.peers import PEERS, peer_runs
from retouch.bench.published import REFERENCE, SIGE, measured
from retouch.bench.report import Column, Result, figure, giga, size_text, times
from retouch.bench.trial import Case, Trial, on
from retouch.errors import OptionError
from retouch.models import Network
from retouch.plan.explain import Explanation
from retouch.plan.peaks import device as published_device
from retouch.plan.policy import PRESETS, Policy

BUSY = "Dense times of {} vary by more than half: is the machine busy? Measure again."
ALLOCATOR = (
    "Eager PyTorch loses time to page faults under stock malloc. For a dense baseline without them, run again with "
    "MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456 in the environment."
)

BESIDE = (
    "Dense is the best of eager NCHW, eager channels-last, torch.compile and the peers that were asked for; graphs: "
    "as sessions update, replayed from "
    f"a CUDA graph. SIGE's figures are of the {published_device(REFERENCE).title} (arXiv 2211.02048) for "
    "the edit nearest in size, for Stable Diffusion of twice the pixels."
)


def _sige(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    """What SIGE's authors measured for the network and the edit nearest in size."""

    def found(row: Mapping[str, Any]) -> float | None:
        published = None if row["tiny"] else SIGE.get(row["model"])
        edit = published.nearest(row["edit"]).edit if published else None
        return edit if key == "edit" else measured(published, edit or 0.0, REFERENCE)[key]

    return found


COLUMNS = [
    Column("model", "network"),
    Column("", "policy, edit", value=lambda row: f"{_policy(row)}, {row['edit_label']}", below=True),
    Column("dtype", "type", lambda name: "" if name == "float32" else name, below=True),
    Column("dense_ms", "dense", figure),
    Column("dense_kind", "kind", lambda kind: kind.removeprefix("channels_"), below=True),
    Column("record_ms", "record", figure),
    Column("record_over_dense", "/ dense", times, lambda row: row["record_ms"] / row["dense_ms"], below=True),
    Column("update_ms", "update", figure),
    Column("predicted_ms", "predicted", lambda ms: "" if ms is None else figure(ms), below=True),
    Column("update_replayed_ms", "graphs", lambda ms: "" if ms is None else figure(ms), below=True),
    Column("speedup", "speed-\nup", times, lambda row: row["dense_ms"] / row["update_ms"]),
    Column(
        "speedup_replayed",
        "graphs",
        lambda factor: "" if factor is None else times(factor),
        lambda row: row["dense_ms"] / row["update_replayed_ms"] if row["update_replayed_ms"] else None,
        below=True,
    ),
    Column("macs_active", "GMAC", giga),
    Column("macs_dense", "of all", giga, below=True),
    Column("kept_bytes", "kept", size_text),
    Column("rel_err", "error", lambda error: f"{error:.2g}"),
    Column("outside_unchanged", "outside", lambda same: "" if same else "changed!", below=True),
    Column("", "SIGE: edit", lambda edit: f"{edit:g}" if edit else "-", _sige("edit"), wide=True),
    Column("", "SIGE: dense", figure, _sige("dense_ms"), wide=True),
    Column("", "SIGE: update", figure, _sige("update_ms"), wide=True),
    Column("", "SIGE: speed-up", times, _sige("speedup"), wide=True),
]


TYPES = ("float32", "bfloat16", "float16", "int8")
"""Of weights and products; "int8": weights of the fastest type of the processor, products of both in int8."""


def _policy(row: Mapping[str, Any]) -> str:
    """The policy of a row, and what became of texts where it was said."""
    return f"{row['policy']}, text {row['text']}" if row.get("text") else str(row["policy"])


@dataclass(frozen=True)
class Networks(options.Networks, Suite):
    """Raises OptionError for what there is not, or not together."""

    columns: ClassVar[Sequence[Column]] = COLUMNS

    def check(self) -> None:
        """Look everything up by its name, and read every mask."""
        chosen(self.policy, PRESETS, "policy")
        for policy, text in self.ways:
            self.settings(policy, text)
        chosen(self.peer, PEERS, "peer")
        for name in chosen(self.model, models.names(), "model"):
            self.edits(models.get(name))
        for name in chosen(self.dtype, TYPES, "type"):
            self.checked_type(name)

    @property
    def ways(self) -> list[tuple[str, str | None]]:
        """Policies with what becomes of texts: None where that is the policy's."""
        texts: Sequence[str | None] = self.text or (None,)
        return list(product(self.policy, texts))

    def settings(self, policy: str, text: str | None) -> Policy:
        """The policy with what was asked for; PolicyError for texts that it cannot have."""
        changes: dict[str, Any] = {"dilate": self.dilate, "text": text}
        return replace(PRESETS[policy], **{key: value for key, value in changes.items() if value is not None})

    def edits(self, network: Network) -> list[Edit]:
        """The edits of a network."""
        return edits_of(self.edit, self.mask, network.image_size(self.tiny))

    @property
    def place(self) -> str:
        """The device with its number."""
        return str(backend_of(self.backend, self.device).device)

    def checked_type(self, name: str) -> torch.dtype:
        """The type of that name; OptionError unless the backend computes in it on the device."""
        backend = backend_of(self.backend, self.device)
        found: torch.dtype = backend.native if name == "int8" else getattr(torch, name)
        if found not in backend.dtypes:
            types = " or ".join(str(dtype).removeprefix("torch.") for dtype in backend.dtypes)
            raise OptionError(f"--dtype {name}: the {backend.name} backend computes in {types} on {backend.device}")
        return found

    def measure(self, progress: Progress) -> Iterator[Mapping[str, Any]]:
        """Every model in every type under every policy with every edit."""
        for (name, dtype), part in progress.over(list(product(self.model, self.dtype))):
            part.say(f"{name}: building")
            network = models.get(name)
            module = network.build(self.tiny, self.checked_type(dtype)).to(self.place)
            inputs = on(network.inputs(self.tiny, self.checked_type(dtype)), self.place)
            dense = {**dense_runs(module, inputs, not self.no_compile), **peer_runs(self.peer, module, inputs)}
            for (policy, text), of_policy in part.over(self.ways):
                of_policy.say(f"{name}, {policy}: compiling")
                made = self.trial(network, module, dtype, self.settings(policy, text), dense)
                yield from self._measured(made, dtype, text, of_policy)
                del made
            del module, dense
            torch._dynamo.reset()

    def trial(
        self, network: Network, module: nn.Module, dtype: str, policy: Policy, dense: Mapping[str, Callable[[], Tensor]]
    ) -> Trial:
        """The network compiled under a policy, with its edits."""
        inputs = network.inputs(self.tiny, self.checked_type(dtype))
        cases = [Case(edit, on(network.edited(inputs, edit.mask), self.place)) for edit in self.edits(network)]
        arithmetic = "int8" if dtype == "int8" else "float"
        return Trial(network.name, module, on(inputs, self.place), policy, self.backend, cases, dense, arithmetic)

    def _measured(self, trial: Trial, dtype: str, text: str | None, progress: Progress) -> Iterator[Mapping[str, Any]]:
        trial.run(self.repeat, progress)
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
                **compare(before, after, run_dense(trial.module, case.edited).cpu(), active),
            }

    def heading(self, results: Sequence[Result]) -> tuple[str, str]:
        """The errors are a check of the arithmetic."""
        return "Dense, record and update (medians, ms)", "error: relative L2 in the active rows, random weights"

    def notes(self, results: Sequence[Result]) -> list[str]:
        """A busy machine, and a better dense baseline."""
        uneven = {each["model"] for each in results if busy([each["spread"][each["dense_kind"]]]) > RESTLESS}
        return [*(BUSY.format(name) for name in sorted(uneven)), ALLOCATOR]

    def markdown_table(self, results: Sequence[Result]) -> str:
        """Says whose the figures beside these are."""
        return f"{super().markdown_table(results)}\n\n{BESIDE}"

    def explanation(self) -> Explanation:
        """`explain` of the first model, type, policy and edit; nothing is timed."""
        network, dtype = models.get(self.model[0]), self.dtype[0]
        trial = self.trial(
            network, network.build(self.tiny, self.checked_type(dtype)), dtype, self.settings(*self.ways[0]), {}
        )
        found: Explanation = trial.net.explain(trial.cases[0].region)
        return found


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
