"""The compiled module: record, update, explain."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from threading import RLock
from time import perf_counter
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from retouch import kernels as kernel_table
from retouch.errors import OptionError, RetouchError
from retouch.frontend.capture import capture, in_use
from retouch.frontend.lowering import lower
from retouch.frontend.signature import InputError, Signature, same_tensor
from retouch.ir.layout import Layout, LayoutError
from retouch.ir.program import Program, Read
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.kernels import Backend
from retouch.ops.dense import ELEMENT
from retouch.passes import ByArea, Plan, checked_arithmetic, cut, fuse, in_arithmetic, in_tiles, plan
from retouch.plan import activity
from retouch.plan.areas import Areas
from retouch.plan.explain import Explanation, explain
from retouch.plan.policy import Policy
from retouch.plan.region import Region, RegionError
from retouch.runtime.base import Contents, State, plain_tensors
from retouch.runtime.blocks import spill_folder
from retouch.runtime.executor import Timed
from retouch.runtime.needs import needed
from retouch.runtime.packed_files import PackedFiles
from retouch.runtime.program_files import Lowered, kept
from retouch.runtime.rates import costs_of
from retouch.runtime.schedule import Schedule
from retouch.runtime.schedules import Planned, Schedules
from retouch.runtime.shared import Shared
from retouch.runtime.side_by_side import SideBySide
from retouch.runtime.spare import spare_memory
from retouch.runtime.state.in_place import Recording
from retouch.runtime.state.together import Together, nbytes_of
from retouch.runtime.state.workspace import Workspace
from retouch.runtime.threads import all_threads, beside, thread_count, threads_for
from retouch.runtime.trial import int8_errors
from retouch.runtime.weights import Weights, WeightsChangedError

_MOVES = {"to", "to_empty", "cpu", "cuda", "xpu", "ipu", "mtia", "half", "float", "double", "bfloat16", "type"}
"""Methods of modules that change where parameters are or their type."""

PLENTY = 4
"""Updates that are often together."""


class UnsupportedError(RetouchError, RuntimeError):
    """What was asked for cannot be done with a compiled module."""


@dataclass(frozen=True)
class Demand:
    """Bytes that updating several recordings together takes: once, beside that for each, and what each adds to its
    recording.
    """

    once: int
    each: int
    added: int


class Incremental:
    """A module that can record a run and update it for a region.

    Made by `retouch.compile`. Called directly, it is the dense module; attributes are the module's.
    `backend.name` and `backend.device` say which kernels compute, and where.
    """

    def __init__(
        self,
        module: nn.Module,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        policy: Policy,
        kernels: Backend,
        layouts: Mapping[str, Layout] | None = None,
        arithmetic: str = "float",
        map_weights: bool = False,
    ) -> None:
        if checked_arithmetic(arithmetic) == "int8" and "int8_gemm" in kernels.lacking:
            raise OptionError(f"the {kernels.name} backend has no products in int8; the cpu backend has")
        self.module, self.policy, self.backend = module, policy, kernels
        self.signature = Signature(module, args, kwargs, layouts)
        asked = {"dtypes": sorted(map(str, kernels.dtypes))}
        make = partial(lowered, module, self.signature, kernels)
        found = kept(module, self.signature, asked, kernels.device, make)
        self.out_spec = found.out_spec
        tried = partial(int8_errors, module=module, example=self.signature.example, backend=kernels)
        self.products = in_arithmetic(found.program, arithmetic, tried)
        files = PackedFiles(kernels) if map_weights else None
        self.weights = Weights(module, found.literals, self.products.program, kernels, files)
        self._lowered = self.weights.without_folded(self.products.program)
        tiled = not policy.exact and kernels.lacking.keys().isdisjoint(("gemm", "winograd"))
        self.program = in_tiles(self._lowered, kernels.native) if tiled else self._lowered
        self.plan: Plan = planned(self.program, policy)
        self.weights.refresh()
        self.shared = Shared(kernels)
        self.lock = RLock()
        self.workspace = Workspace(self)
        arguments = dict(zip(self.signature.inputs, self.program.inputs, strict=True))
        self.schedules = Schedules(self.plan, policy, self.shared, costs_of(kernels), arguments)
        self.planner = self.schedules.planner
        self._joined: WeakKeyDictionary[SideBySide, Together] = WeakKeyDictionary()
        self._memory: Tensor | None = None
        self._counted: WeakKeyDictionary[Schedule, int] = WeakKeyDictionary()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module densely; its result."""
        with in_use(self.module), all_threads():
            return self.module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "module":
            raise AttributeError(name)
        if name in _MOVES:
            return partial(self._refuse, name)
        return getattr(self.module, name)

    def _refuse(self, name: str, *args: Any, **kwargs: Any) -> NoReturn:
        raise UnsupportedError(
            f"{name}() cannot be done with a compiled module, whose kernels are made for {self.backend.device} and its "
            "types; do it with the module, and compile that again"
        )

    def train(self, mode: bool = True) -> Incremental:
        """The compiled module, which is in evaluation mode; RuntimeError for training mode."""
        if mode:
            raise UnsupportedError("a compiled module cannot be trained; train the module and compile it again")
        return self

    def eval(self) -> Incremental:
        """The compiled module, as it is."""
        return self

    # Recording and updating

    @plain_tensors
    def record(self, *args: Any, **kwargs: Any) -> tuple[Any, Recording]:
        """Run the whole module; its result, and the recording that updates start from.

        Raises InputError when arguments differ from the example inputs in shape, dtype, device or in
        values that are no tensors, or hold NaN or infinity.
        """
        leaves = self.signature.flatten(args, kwargs)
        with self.lock, beside(self.backend):
            return self._record(leaves)

    def _record(self, leaves: list[Any]) -> tuple[Any, Recording]:
        self.backend.set_threads(thread_count())
        with all_threads():
            self.weights.refresh()
        recording = Recording(self)
        for value in self.plan.kept:
            if value not in self.program.inputs:
                recording.buffers[value] = self.backend.empty(value.rows, value.channels, value.dtype)
        self._feed(recording, leaves)
        recording.run(self.schedules.everything)
        return self._result(recording), recording

    @plain_tensors
    def update(self, recording: State, region: Region, *args: Any, **kwargs: Any) -> Any:
        """The module's result with the rows of `region` computed from the arguments, others as recorded.

        `region` is on the grid of the network's largest input, of its output, or on one a whole number of
        times finer than the input's (pixels, for a latent model). Inputs without a grid (time step, text)
        are compared with the recorded ones, and what depends on them is computed again. The recording
        then holds the edit; when anything fails it is left as it was.
        """
        return self.update_areas(recording, region, None, *args, **kwargs)

    @plain_tensors
    def update_areas(self, recording: State, region: Region, areas: Areas | None, *args: Any, **kwargs: Any) -> Any:
        """As `update`; rows in `areas` read an argument, texts for example, in a version of their own.

        The recording keeps the rows, and for its next update the argument that all other rows read. Under `exact`
        everything that depends on the argument is computed again.

        That is for attention, of which the argument makes keys and values; whatever else is made of it stays that of
        all other rows. Raises AreaError where nothing attends to it, and where keys are not made of it alone.
        """
        leaves = self.signature.flatten(args, kwargs)
        with self.lock, beside(self.backend):
            self._check(recording, region)
            self._check_weights(recording)
            recording.abort()  # of an update that failed and could not be taken back
            return self._update(recording, leaves, region, areas)

    @plain_tensors
    def update_many(
        self,
        recordings: Sequence[State],
        regions: Region | Sequence[Region],
        inputs: Sequence[tuple[Sequence[Any], Mapping[str, Any]]],
    ) -> list[Any]:
        """The results of `update` for several recordings, computed together.

        Weights are read once for the active rows of all, and calls are made once; rows outside that recordings have in
        common (those of one snapshot) are there once. Every result is that of `update`, bit for bit on the compiled
        backends, and every recording can be undone by itself.

        regions: one for all, or for each recording its own. inputs: for each recording its arguments, positional and
        named ones: `((x, t), {})`; time steps may differ.

        Those that compute everything, or nothing, are updated one after the other, and so are those whose regions need
        other calls than any other's: where they cover a small grid, or leave no room for probes. Raises InputError for
        none, for as many inputs or regions as there are no recordings, or for one recording twice. When anything fails,
        a recording is left as it was; those that were computed before it keep their update.
        """
        if len(recordings) != len(inputs) or not recordings:
            raise InputError(f"{len(recordings)} recordings and {len(inputs)} inputs; give one for each, at least one")
        if len({id(recording) for recording in recordings}) < len(recordings):
            raise InputError("one recording is named twice; an update changes it, so the second would start from that")
        drawn = [regions] * len(recordings) if isinstance(regions, Region) else list(regions)
        if len(drawn) != len(recordings):
            raise InputError(f"{len(recordings)} recordings and {len(drawn)} regions; give one, or one for each")
        leaves = [self.signature.flatten(args, dict(kwargs)) for args, kwargs in inputs]
        with self.lock, beside(self.backend):
            for recording, region in zip(recordings, drawn, strict=True):
                self._check(recording, region)
            self._check_weights(*recordings)
            for recording in recordings:
                recording.abort()
            return self._update_many(recordings, drawn, leaves)

    def _update_many(
        self, recordings: Sequence[State], regions: Sequence[Region], leaves: Sequence[list[Any]]
    ) -> list[Any]:
        changes = [self._changed(*each) for each in zip(recordings, leaves, strict=True)]
        groups: dict[Any, list[int]] = {}
        for number, each in enumerate(zip(recordings, regions, changes, strict=True)):
            recording, region, changed = each
            alike = self.schedules.alike(region, changed, recording.uses, recording.call)
            groups.setdefault(alike or number, []).append(number)
        results: dict[int, Any] = {}
        for numbers in groups.values():
            given = [(recordings[n], regions[n], leaves[n], changes[n]) for n in numbers]
            found = [self._update(r, x, where) for r, where, x, _ in given] if len(given) == 1 else self._joint(given)
            results.update(zip(numbers, found, strict=True))
        return [results[number] for number in range(len(recordings))]

    def _joint(self, given: Sequence[tuple[State, Region, list[Any], frozenset[Value]]]) -> list[Any]:
        recordings, regions, leaves, changes = zip(*given, strict=True)
        together = self._together(recordings, regions, changes)
        self.backend.set_threads(thread_count())
        together.load(recordings)
        for part, changed, own in zip(together.parts, changes, self._owned_by_all(leaves, changes), strict=True):
            self._feed_active(part, part.schedule.active, own, changed)
        together.run()
        results = [self._result(part) for part in together.parts]
        try:
            for part in together.parts:
                part.recording.receive(part.schedule, together.computed(part))
        except BaseException:
            for recording in recordings:
                recording.abort()
            raise
        for recording in recordings:
            recording.commit()
        return results

    def _together(
        self, recordings: Sequence[State], regions: Sequence[Region], changes: Sequence[frozenset[Value]]
    ) -> Together:
        """What recordings are updated in together."""
        origins = [id(recording.origin) for recording in recordings]
        number = {origin: i for i, origin in enumerate(dict.fromkeys(origins))}
        bases = tuple(number[origin] for origin in origins)
        schedule = self.schedules.joint(tuple(regions), tuple(changes), bases, recordings[0].call)
        found = self._joined.get(schedule)
        if found is None or found.generation != self.weights.generation:
            nbytes = nbytes_of(schedule)
            if self._memory is None or len(self._memory) < nbytes:
                self.release()
                self._memory = self.backend.empty(nbytes + nbytes // 4, 1, torch.uint8).view(-1)  # the next need more
            found = self._joined[schedule] = Together(self, schedule, self._memory)
        return found

    def gain(self, region: Region, count: int = PLENTY) -> float:
        """How many times faster `update_many` is predicted to be for `count` recordings and regions like this one than
        updates one by one; 1 for those that compute everything.
        """
        self._check_region(region)
        outlook = self.schedules.outlook(region)
        if math.isinf(outlook.break_even):
            return 1.0
        if count not in outlook.gains:
            outlook.gains[count] = self.planner.gain(outlook.active, count)
        return outlook.gains[count]

    def release(self) -> None:
        """Give up the memory that `update_many` keeps for its next call."""
        with self.lock:
            self._joined.clear()
            self._memory = None

    def _update(self, recording: State, leaves: list[Any], region: Region, areas: Areas | None = None) -> Any:
        begun = perf_counter()
        changed = self._changed(recording, leaves)
        idle = not region.mask.any() and not changed and not (areas and self.policy.exact)
        self.backend.set_threads(thread_count())
        by_area = self.schedules.by_area(areas) if areas else None
        if idle:
            planned = Planned(self.schedules.nothing)
        else:
            planned = self.schedules.of(region, changed, areas, recording.uses, recording.call)
        try:
            if planned.whole:
                self._begin_again(recording, planned.schedule, leaves)
            else:
                recording.begin(planned.schedule)
                if not idle:
                    self._feed_active(recording, planned.schedule.active, self._owned(leaves, changed), changed)
            if areas and by_area:
                self._feed_areas(recording, areas, by_area)
            if not idle:
                recording.run(planned.schedule)
            result = self._result(recording)
            recording.told(recording, result)
        except BaseException:
            recording.abort()
            raise
        finally:
            recording.drop(by_area.added if by_area else ())
        recording.commit()
        if self.backend.device.type == "cpu":  # others compute on when this returns
            planned.measured_ms = 1e3 * (perf_counter() - begun)
        return result

    def _check(self, recording: State, region: Region) -> None:
        if not isinstance(recording, State):
            raise InputError(f"update needs the recording that record() returned, not a {type(recording).__name__}")
        if recording.owner is not self:
            raise InputError("the recording was made by another compiled module; record with this one")
        if not isinstance(region, Region):
            raise RegionError(f"update needs a Region, not a {type(region).__name__}; see Region.from_mask")
        self._check_region(region)

    def _check_weights(self, *recordings: State) -> None:
        if not all(recording.trusted for recording in recordings):
            self.weights.check()
        if any(recording.hashes != self.weights.hashes for recording in recordings):
            raise WeightsChangedError("the recording was made with other weights; record again")

    def _check_region(self, region: Region) -> None:
        grid = region.grid
        sources = [v.grid for v in self.program.inputs if v.grid and not v.grid.reference]
        if not sources:
            raise RegionError("the module has no image input (B, C, H, W), so there is nothing to update by region")
        largest = max(sources, key=lambda g: g.size)
        outputs = [o.value.grid for o in self.program.outputs if o.value is not None and o.value.grid]
        finer = grid.height % largest.height == 0 and grid.width % largest.width == 0
        if not (finer and grid.height * largest.width == grid.width * largest.height) and grid not in outputs:
            raise RegionError(
                f"the region is {grid}; this network takes {largest} (its input), a multiple of it"
                + "".join(f", or {g} (its output)" for g in dict.fromkeys(outputs) if g != largest)
            )
        batch = max(v.batch for v in self.program.inputs if v.grid)
        if len(region.mask) not in (1, batch):
            raise RegionError(
                f"the region has {len(region.mask)} samples and the batch {batch}; give one mask or one each"
            )

    def _changed(self, recording: State, leaves: list[Any]) -> frozenset[Value]:
        """Inputs without a grid, and references, that are others than recorded."""

        def differs(value: Value, leaf: Any) -> bool:
            if value.grid is None:
                return not same_tensor(recording.values[value], leaf)
            if not value.grid.reference:
                return False
            return not recording.holds(value, self.program.layout(value).rows(leaf.detach()))

        pairs = zip(self.program.inputs, leaves, strict=True)
        return frozenset(value for value, leaf in pairs if differs(value, leaf))

    def _owned(self, leaves: list[Any], changed: frozenset[Value]) -> list[Any]:
        """Arguments of which a recording keeps those that changed and have no grid."""
        pairs = zip(self.program.inputs, leaves, strict=True)
        return [_own(leaf) if v in changed and not v.grid else leaf for v, leaf in pairs]

    def _owned_by_all(self, leaves: list[list[Any]], changes: Sequence[frozenset[Value]]) -> list[list[Any]]:
        """The same for several recordings; equal arguments are one object, so that what follows is computed once."""
        changed = frozenset[Value]().union(*changes)  # of any, as one may get what another one was given
        first, *others = (self._owned(each, changed) for each in leaves)
        return [first, *([a if same_tensor(a, b) else b for a, b in zip(first, x, strict=True)] for x in others)]

    def _feed(self, recording: State, leaves: list[Any]) -> None:
        """Put all inputs into the recording."""
        for value, leaf in zip(self.program.inputs, leaves, strict=True):
            if value.grid:
                recording.put_rows(value, self.program.layout(value).rows(leaf.detach()).clone())
            else:
                recording.put(value, _own(leaf))

    def _feed_active(
        self, target: Contents, active: Mapping[Value, Table], leaves: list[Any], changed: frozenset[Value]
    ) -> None:
        """Put the active rows of image inputs, and the dense inputs that changed, where an update reads them."""
        for value, leaf in zip(self.program.inputs, leaves, strict=True):
            if value.grid is None:
                if value in changed:
                    target.put(value, leaf)
                continue
            index = torch.from_numpy(active[value].array.astype(np.int64)).to(leaf.device)
            target.feed(value, active[value], self.program.layout(value).taken(leaf.detach(), index))

    def _begin_again(self, recording: State, schedule: Schedule, leaves: list[Any]) -> None:
        """Make ready to compute everything into fresh buffers; the old ones are what undo brings back."""
        recording.begin(schedule)
        for value in self.plan.kept:
            recording.renew(value)
        self._feed(recording, leaves)

    def _feed_areas(self, recording: State, areas: Areas, by_area: ByArea) -> None:
        """Put what areas read of their own into the recording, and what is computed of that."""
        for value, content in zip(by_area.inputs, chain.from_iterable(areas.given.values()), strict=True):
            recording.put(value, _own(content))
        for each in by_area.chains:
            recording.follow(each)

    def _result(self, recording: Contents) -> Any:
        leaves = []
        for output in self.program.outputs:
            if output.value is None:
                leaves.append(output.constant)
            elif output.ref is not None:
                tensor = recording.result(output.ref)
                with threads_for(ELEMENT * tensor.numel()):
                    leaves.append(tensor.clone(memory_format=torch.contiguous_format))
            else:
                found = recording.values.get(output.value, self.weights.values.get(output.value))
                leaves.append(found.clone() if isinstance(found, Tensor) else found)
        return pytree.tree_unflatten(leaves, self.out_spec)

    @plain_tensors
    def prepare(self, recording: State) -> None:
        """Make what updates for all small regions have in common, which the first one would have to make: the calls of
        one in a corner, run once. The recording stays as it is.
        """
        with self.lock:
            schedule = self.schedules.of_corner()
            if schedule is None:
                return
            try:
                recording.begin(schedule)
                recording.run(schedule)
            finally:
                recording.abort()

    def forget(self) -> None:
        """Drop what was made for regions: all are new again."""
        with self.lock:
            self.schedules.forget()

    # Reports

    def active(self, region: Region, changed: frozenset[Value] = frozenset(), call: int = 0) -> dict[Value, Table]:
        """Active rows of every value for a region; `call` as for `Policy.of_call`."""
        return self.schedules.active(region, changed, call)

    def demand(self, region: Region) -> Demand:
        """An estimate of the bytes that `update_many` takes for a region."""
        active = self.active(region)
        if self.planner.is_whole(active):
            return Demand(0, 0, self.plan.kept_bytes)
        added = sum(len(active[v].edited) * v.channels * v.dtype.itemsize for v in self.plan.kept)
        maps = [sum(v.nbytes for v, how in op.operands() if how is Read.ALL) for op in self.program.ops]
        return Demand(self.plan.kept_bytes, added + max(maps, default=0), added)

    def macs_of(self, schedule: Schedule) -> int:
        """Multiply-accumulates of a run."""
        if schedule not in self._counted:
            self._counted[schedule] = activity.macs(self.plan, schedule.active)
        return self._counted[schedule]

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of a dense run."""
        return activity.macs(self.plan, activity.everything(self.program))

    @cached_property
    def digest(self) -> str:
        """A hash of what is computed, however: equal for networks that do the same with weights of the same shapes."""
        return hashlib.blake2b(str(self._lowered).encode(), digest_size=16).hexdigest()

    def explain(self, region: Region | None = None) -> Explanation:
        """What every operation computes for a region (None: a recording): rows, arithmetic, memory, fallbacks.

        With a region also what an update does and why, and how long that should take and took the last time.
        """
        if region is not None:
            self._check_region(region)
        active = self.active(region) if region is not None else activity.everything(self.program)
        kernels = kernel_table.described(self.backend, needed(self.program, self.policy))
        predicted = self.planner.by_operation(active)
        computed_by, left = self.backend.computed_by, self.products.left
        report = explain(self.program, self.plan, active, computed_by, kernels, predicted, left=left)
        if region is None:
            return report
        seen = self.schedules.seen(region)
        decision = self.planner.choose(active, seen.uses if seen else 1)
        return replace(report, decision=decision, measured_ms=seen.measured_ms if seen else None)

    @plain_tensors
    def profile(
        self, recording: State, active: Mapping[Value, Table], inputs: Mapping[Value, Any]
    ) -> Mapping[str, float]:
        """Seconds of every operation, by its value's name, in an update that computes the `active` rows of every value.

        inputs: the arguments that differ from the recorded ones, of images the active rows `[M, C]`. The update is
        taken back. Its operations wait for each other, so on accelerators they take longer than in other updates.
        """
        timed = Timed()
        with self.lock:
            self._check_weights(recording)
            self.backend.set_threads(thread_count())
            changed = {value for value in inputs if value.grid is None}
            whole = all(table.complete for table in active.values())
            schedule = self.schedules.again if whole else self.schedules.built(dict(active), changed)
            try:
                recording.begin(schedule)
                for value in self.plan.kept if whole else ():
                    recording.renew(value)
                for value, content in inputs.items():
                    if value.grid:
                        recording.feed(value, active[value], content)
                    else:
                        recording.put(value, content)
                timed.run(schedule, recording)
            finally:
                recording.abort()
        return timed.seconds

    def active_mask(self, region: Region) -> Tensor:
        """bool `[B, H, W]` on the grid of the first image output: True where an update may change it."""
        self._check_region(region)
        output = next((o.value for o in self.program.outputs if o.value is not None and o.value.grid), None)
        if output is None:
            raise RegionError("the module returns no image")
        active = self.active(region)
        seen = self.schedules.seen(region)
        if self.planner.is_whole(active, seen.uses if seen else 1):
            active = activity.everything(self.program)
        return torch.from_numpy(active[output].edited.mask(output.map))

    @property
    def packed_bytes(self) -> int:
        """Memory of packed weights, beside the module's own parameters."""
        return self.weights.packed_bytes

    def __repr__(self) -> str:
        grids = ", ".join(str(g) for g in self.program.grids())
        kernels = f"{self.backend.name} on {self.backend.device}"
        return f"Incremental({type(self.module).__name__}, {self.policy.name}, {kernels}, grids {grids})"


def _own(leaf: Any) -> Any:
    """An argument as a recording keeps it."""
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def lowered(module: nn.Module, signature: Signature, kernels: Backend) -> Lowered:
    """A module captured for its example inputs, as rows."""
    captured = capture(module, *signature.example)
    try:
        program = cut(fuse(lower(captured, kernels.dtypes, signature.layouts)))
    except LayoutError as error:
        raise InputError(f"an input does not have the layout that is given for it: {error}") from None
    return Lowered(program, captured.literals, captured.out_spec)


def planned(program: Program, policy: Policy) -> Plan:
    """The storage plan of a program under a policy."""
    keeps_maps = activity.statistics_of(program, policy).keeps_maps
    return plan(program, activity.whole_grids(program, policy), keeps_maps, policy.exact, policy.keys_values)


def compile(
    module: nn.Module,
    args: Sequence[Any] | Tensor = (),
    kwargs: dict[str, Any] | None = None,
    *,
    layouts: Mapping[str, Layout] | None = None,
    policy: str | Policy = "balanced",
    backend: str = "auto",
    arithmetic: str = "float",
    keep_module: bool = True,
    map_weights: bool = False,
) -> Incremental:
    """Turn a module in evaluation mode into an incremental one.

    args, kwargs: example inputs; they fix shapes, dtypes and all values that are no tensors. Image inputs
    are 4-D `(B, C, H, W)`. Parameters are float32 or bfloat16, with Triton also float16.
    layouts: by name of the argument, what else is a map: `{"hidden_states": retouch.tokens(64, 64)}` for one that
    comes as tokens `[B, 64 * 64, C]`, row by row; other pictures in the same sequence as further sizes.
    backend: kernels by name; "auto" takes those for the device that module and inputs are on, and warns when
    it has to take the slower reference ones, as the others cannot be used there. A kernel that the backend lacks is
    computed by the reference one, also with a warning. Which they are is told by `backend.name`, `repr()` and
    `explain()` of what is returned.

    arithmetic: what convolutions and linear layers are computed in: "float", the type of the weights; or "int8", which
        is faster and less exact: weights are quantised once, with a scale for each output and tap, and rows when they
        are read, each over its own range. The first and last layers, narrow ones, attention, norms and what reads time
        or text stay as they are, and so do layers that err too much there, which a run of the example inputs tells
        (once for the same weights and examples; it is kept in the cache folder). `explain()` says which and why.
    keep_module: False moves the module's parameters to files without a name, in the folder for temporary files, so that
        memory holds the weights once, as kernels read them. The module stays what it was: the system reads from the
        files what is asked for, and drops it again when memory is short. Parameters on a device stay there.

    map_weights: True maps the packed weights from a file in the user's cache folder (RETOUCH_CACHE), which the first
        call writes: later processes do not pack again, and all share the memory. `retouch cache` lists and clears them.
        Of the cpu backend only. A FallbackWarning where there is no room for the file.

    What an update computes is chosen by what kernels cost. On a CPU the first call on a machine, for a backend and
    a number of threads, times them for a few seconds and keeps the figures in the user's cache folder, or where
    RETOUCH_CACHE says; nothing is timed later.

    Raises CaptureError when the module cannot be expressed as a graph (control flow on data, training
    mode), ValueError for an unknown policy, backend or arithmetic, or one that does not run on the device, InputError
    for tensors on several devices or without content. For a backend that is named raises ImportError when it
    is not installed, and RuntimeError when it cannot use the device.
    """
    positional = (args,) if isinstance(args, Tensor) else tuple(args)
    leaves, _ = pytree.tree_flatten_with_path((positional, kwargs or {}))
    given = [(f"argument {pytree.keystr(path[1:])}", x) for path, x in leaves if isinstance(x, Tensor)]
    computed = [*module.named_parameters(), *given]
    kernels = kernel_table.backend(backend, _device([*computed, *module.named_buffers()]))
    _check_dtypes(computed, kernels)
    if not keep_module:
        spare_memory(module, spill_folder())
    net = Incremental(module, positional, kwargs or {}, Policy.named(policy), kernels, layouts, arithmetic, map_weights)
    kernel_table.warn_of_lacking(kernels, needed(net.program, net.policy), stacklevel=2)
    return net


def _device(named: Iterable[tuple[str, Tensor]]) -> torch.device:
    """The one device of all tensors; as in PyTorch, numbers without a dimension may stay on the CPU."""
    placed = [(name, x.device) for name, x in named if x.dim() or x.device.type != "cpu"]
    first, device = placed[0] if placed else ("", torch.device("cpu"))
    for name, other in placed:
        if other.type == "meta":
            raise InputError(f"{name} is on the meta device and has no content; load it first")
        if other != device:
            raise InputError(f"{first} is on {device}, {name} on {other}; move the module and its inputs to one device")
    return device


def _check_dtypes(named: Iterable[tuple[str, Tensor]], kernels: Backend) -> None:
    for name, tensor in named:
        if tensor.is_floating_point() and tensor.dtype not in kernels.dtypes:
            known = " or ".join(str(dtype).removeprefix("torch.") for dtype in kernels.dtypes)
            raise InputError(
                f"the {kernels.name} backend computes in {known}, not {tensor.dtype} ({name}); convert the module"
            )
