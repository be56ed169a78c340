"""What the error of edits comes from: edits of the quality suite again, with one approximation after the other exact.

Prints dB (PSNR) inside the region against the dense run of the same edit, and the share of the arithmetic of updates.
Neither depends on what else the machine does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from retouch.bench.difference import compare
from retouch.bench.quality import BALANCED, FAST, Quality, read_pictures
from retouch.bench.samples import SampleEdit, sample_edits
from retouch.editing.calls import Calls, Clock
from retouch.editing.diffusion.asked import Asked
from retouch.editing.diffusion.change import Change
from retouch.editing.diffusion.denoiser import snapshot_name
from retouch.editing.diffusion.editor import Editor
from retouch.editing.diffusion.process import Whole
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.images import Pixels
from retouch.incremental import Incremental
from retouch.ir.operands import SlotKind
from retouch.ir.program import Read
from retouch.ir.value import Value
from retouch.plan.region import Region
from retouch.runtime.state.in_place import Recording

POLICIES = {
    "no margin, probes further than 4": replace(BALANCED, margin=0, probe_distance=4),
    "balanced": BALANCED,
    "no margin": replace(BALANCED, margin=0),
    "probes further than 4": replace(BALANCED, probe_distance=4),
    "a margin of 2": replace(BALANCED, margin=2),
    "36 probes": replace(BALANCED, probes=36),
}


@dataclass
class Runs:
    """The network calls of one edit. `whole` names those that are dense.

    recorded: recordings of the steps, in which an update finds the dense run's `rows` in the place of its own, and with
    `norms` the dense run's statistics; taken: others than the dense run's.
    """

    session: DiffusionSession
    whole: Callable[[str], bool] = lambda name: False
    recorded: Mapping[str, Recording] | None = None
    rows: Iterable[Value] = ()
    norms: bool = False
    taken: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.calls = Calls(self.session.store, self.session.versions[0].snapshots, None)

    def update(
        self,
        name: str,
        net: Incremental,
        region: Region,
        *args: Any,
        areas: Any = None,
        told: Any = None,
        **kwargs: Any,
    ) -> Any:
        """See `retouch.editing.diffusion.process.Evaluations`."""
        if self.whole(name):
            self.calls.count(net, net.macs)
            return net.record(*args, **kwargs)[0]
        if self.recorded is None or name not in self.recorded:
            return self.calls.update(name, net, region, *args, **kwargs)
        mine = self.recorded[name]
        true = net.record(*args, **kwargs)[1] if self.taken is None else self.taken[name]
        with exchanged(mine, true, self.rows, self.norms):
            result = net.update(mine, region, *args, **kwargs)
            mine.undo()
        return result


@contextmanager
def exchanged(mine: Recording, true: Recording, values: Iterable[Value], norms: bool) -> Iterator[None]:
    """Rows and statistics of another recording in the place of some of a recording's own, for a block."""
    rows = {value: mine.buffers[value] for value in values}
    states = {slot: mine.states[slot].clone() for slot in mine.states if norms and slot.kind is SlotKind.FOLDED}
    for value in rows:
        mine.put_rows(value, true.buffers[value])
    for slot in states:
        mine.states[slot].copy_(true.states[slot])
    yield
    for value, kept in rows.items():
        mine.put_rows(value, kept)
    for slot, state in states.items():
        mine.states[slot].copy_(state)


def recordings(session: DiffusionSession) -> dict[str, Recording]:
    """Of all steps of a session's picture."""
    found, process, latents = dict[str, Recording](), session.process, session.version.tensors["latents"]
    for i in range(process.first, len(process.sampler)):

        def record(i: int = i, **inputs: Any) -> Any:
            result, found[snapshot_name(i)] = session.nets.denoiser.record(**inputs)
            return result

        process.denoiser.step(record, i, latents[i - process.first][None], session.conditioning)
    return found


def with_exact_rows(session: DiffusionSession) -> Iterator[tuple[str, Runs]]:
    """What keys and values, all else that is kept, and each grid are worth."""
    net, known = session.nets.denoiser, recordings(session)
    kept = set(net.plan.kept) - set(net.program.inputs)
    read = {v for op in net.program.ops for v, how in op.operands() if how in (Read.ALL, Read.BUFFER)}
    attended = {net.plan.place(value)[0] for value in read} & kept
    yield "keys and values exact", Runs(session, recorded=known, rows=attended)
    yield "all other rows exact", Runs(session, recorded=known, rows=kept - attended)
    for grid in net.program.grids():
        yield f"rows of {grid} exact", Runs(session, recorded=known, rows={v for v in kept if v.grid == grid})


def attended_rows(net: Incremental) -> set[Value]:
    """Keys and values that are kept, of pictures and texts."""
    return {net.plan.place(value)[0] for value in net.plan.keys_values} & set(net.plan.kept)


def with_moved_keys(session: DiffusionSession) -> Iterator[tuple[str, Runs]]:
    """Keys and values of one step in the place of those of all, moved as scattered rows of theirs have moved.

    None: as they are. Shift: by the mean difference of PROBED rows of each grid. Affine: as a line through these fits,
    channel by channel (least squares).
    """
    net, known, last = session.nets.denoiser, recordings(session), len(session.process.sampler) - 1
    rows = attended_rows(net)
    for place, step in (("first", session.process.first), ("middle", (session.process.first + last) // 2)):
        reference = known[snapshot_name(step)]
        for name, move in MOVES.items():
            taken = {call: Recorded(each, reference, move) for call, each in known.items()}
            yield f"keys of the {place} step, {name}", Runs(session, recorded=known, rows=rows, taken=taken)
    yield "keys of every step", Runs(session, recorded=known)


@dataclass(frozen=True)
class Recorded:
    """Rows of `mine`, found again from those of a reference step."""

    mine: Recording
    reference: Recording
    move: Callable[[Tensor, Tensor, Tensor], Tensor]

    @property
    def buffers(self) -> Mapping[Value, Tensor]:
        """By value."""
        return {value: self._moved(value) for value in self.mine.buffers if value in self.reference.buffers}

    def _moved(self, value: Value) -> Tensor:
        mine, old = (each.buffers[value].float() for each in (self.mine, self.reference))
        places = torch.linspace(0, len(old) - 1, PROBED).long()
        return self.move(old, old[places], mine[places]).to(self.mine.buffers[value].dtype)


def _line(old: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """On the line that takes rows `before` to `after` best, in every channel."""
    means = before.mean(0), after.mean(0)
    off = before - means[0]
    slope = (off * (after - means[1])).sum(0) / off.square().sum(0).clamp_min(1e-12)
    return means[1] + slope * (old - means[0])


PROBED = 16
MOVES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "none": lambda old, before, after: old,
    "shift": lambda old, before, after: old + (after - before).mean(0),
    "affine": _line,
}


def with_whole_calls(session: DiffusionSession, start: int) -> Iterator[tuple[str, Runs]]:
    """What networks and first steps are worth."""
    for name in ("encoder", "decoder"):
        yield f"{name} dense", Runs(session, lambda call, name=name: call == name)
    yield "denoiser dense", Runs(session, lambda call: call.startswith("step"))
    for count in (1, 2, 4):
        steps = {snapshot_name(i) for i in range(start, start + count)}
        yield f"first {count} steps dense", Runs(session, steps.__contains__)


def edited(session: DiffusionSession, change: Change, runs: Any) -> Pixels:
    """The picture of an edit."""
    return session._redraw(session.version, change, runs, Clock()).result().pixels


def main(
    edits: Annotated[list[int], typer.Argument(help="Numbers of edits of the suite.")],
    model: str = "builtin/emoji-256",
    images: Annotated[Path | None, typer.Option(help="Folder of PNG files named after their prompts.")] = None,
    policies: Annotated[bool, typer.Option("--policies", help="Compare policies alone.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="Keys and values of one step for all, alone.")] = False,
) -> None:
    """Print one line for each edit and cause."""
    torch.set_num_threads(1)
    pictures = read_pictures(images) if images else Quality(model, lpips=False)._draw()
    samples = sample_edits([pixels for _, pixels in pictures], max(edits) + 1)
    plain = {"balanced": BALANCED, "norms exact, rows as recorded": replace(BALANCED, stats="recorded")}
    alone = {"fast": replace(FAST, keys_values="recorded", crossover=1.0)}
    for name, policy in (POLICIES if policies else alone if keys else plain).items():
        editor = Editor.from_pretrained(model, device="cpu", policy=policy)
        for number in edits:
            prompt, pixels = pictures[samples[number].image]
            session = editor.open(pixels, prompt=prompt, steps=20, strength=0.6, guidance=3.0)
            measured(session, number, samples[number], name, policies, keys)
            session.close()


def measured(
    session: DiffusionSession, number: int, sample: SampleEdit, name: str, briefly: bool, keys: bool = False
) -> None:
    """Print what one edit comes to under the policy of its session, and unless `briefly` with parts of it exact, or
    with `keys` with those of one step.
    """
    change = session.change(Asked(sample.pixels, sample.mask, threshold=0))
    dense = edited(session, change, Whole())
    runs: dict[str, Runs] = {name: Runs(session)}
    if keys:
        runs |= dict(with_moved_keys(session))
    elif session.policy.stats == "recorded":
        runs = {name: Runs(session, recorded=recordings(session), norms=True)}
    elif not briefly:
        runs |= {**dict(with_whole_calls(session, change.start)), **dict(with_exact_rows(session))}
    for cause, run in runs.items():
        found = compare(edited(session, change, run), dense, sample.mask, None)["psnr_inside"]
        share = f"{run.calls.macs / run.calls.dense_macs:7.1%}" if run.recorded is None else ""
        typer.echo(f"{number:3} {sample.kind} of {sample.fraction:.1%}: {cause:32} {found:5.1f} dB {share}")


if __name__ == "__main__":
    typer.run(main)
