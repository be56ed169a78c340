"""The network calls of a version that is being made, the clock that times them, and the question whether to go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.utils._pytree as pytree

from retouch.editing.context import holding
from retouch.editing.manifest import layer_file
from retouch.frontend.signature import same_tensor
from retouch.incremental import Incremental
from retouch.kernels.devices import HOST, lacks_memory, sent
from retouch.plan.areas import Areas
from retouch.plan.region import Region
from retouch.runtime import blocks
from retouch.runtime.state.layered import Restored, Snapshot
from retouch.runtime.state.layers import Layer
from retouch.runtime.store import Store


class Cancelled(Exception):
    """Raised before a network call of what is to stop, and seen by nobody but who asked for that."""


_go_on: ContextVar[Callable[[], None]] = ContextVar("go_on", default=lambda: None)


def asking(go_on: Callable[[], None]) -> AbstractContextManager[None]:
    """Call `go_on` before every network call that this thread makes in a block; it raises Cancelled to stop there."""
    return holding(_go_on, go_on)


def go_on() -> None:
    """Raises Cancelled where what this thread does is to stop."""
    _go_on.get()()


class Meets(Protocol):
    """Where network calls of several edits wait for each other, to be computed together."""

    def call(self, request: Request) -> Any:
        """The result of a call."""

    def leave(self) -> None:
        """Whoever makes the calls of this thread makes none for a while."""


_meeting: ContextVar[Meets | None] = ContextVar("meeting", default=None)


def meeting(place: Meets) -> AbstractContextManager[None]:
    """Updates that this thread makes in a block wait there for others."""
    return holding(_meeting, place)


def no_more_calls() -> None:
    """Nobody need wait for the next network call of this thread: there is none, or not soon."""
    place = _meeting.get()
    if place is not None:
        place.leave()


class Clock:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count the time of a block under `name`."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def total(self) -> dict[str, float]:
        """All of it, with "other" for the time that has no name, and "total"."""
        total = time.perf_counter() - self._start
        return {**self.seconds, "other": total - sum(self.seconds.values()), "total": total}


Told = Callable[[Any], None]
"""Is given the result of a network."""


def untold(result: Any) -> None:
    """Of which nobody is told."""


Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named arguments of a network."""


def equal(a: Any, b: Any) -> bool:
    """Equality of arguments, tensors by their content."""
    (x, spec), (y, other) = pytree.tree_flatten(a), pytree.tree_flatten(b)
    return bool(spec == other) and all(map(same_tensor, x, y))


@dataclass(frozen=True, eq=False)
class Request:
    """One update: whose, the call's name, network, region, arguments; `go_on` raises Cancelled where it is to stop."""

    calls: Calls
    name: str
    net: Incremental
    region: Region
    inputs: Inputs
    go_on: Callable[[], None]

    def is_like(self, other: Request) -> bool:
        """Whether it starts from the same recording and reads the same."""
        same = self.calls.snapshots[self.name] is other.calls.snapshots[other.name]
        return same and self.region == other.region and equal(self.inputs, other.inputs)


class Calls:
    """The recorded network calls of a version that is being made. Arguments and results are on the host.

    `macs` are the multiply-accumulates of all calls, `dense_macs` those of the same calls of the dense networks.

    Calls of one network follow each other in the order of their snapshots, so while the device computes one, what
    the next one reads is brought there.
    """

    def __init__(self, store: Store, snapshots: Mapping[str, Snapshot], folder: Path | None) -> None:
        self.store, self.folder = store, folder
        self.snapshots = dict(snapshots)
        self.added: list[tuple[str, Layer]] = []
        self.bytes_read = self.macs = self.dense_macs = 0
        self._checked: set[Incremental] = set()
        self._recorded: Incremental | None = None
        self._coming: Restored | None = None

    def record(self, name: str, net: Incremental, *args: Any, **kwargs: Any) -> Any:
        """Run a network whole and keep the recording under `name`; its result."""
        go_on()
        if self._recorded is not net:
            net.backend.release()  # memory of another network's recordings does not fit
            self._recorded = net
        args, kwargs = sent((args, kwargs), HOST, net.backend.device)
        result, recording = net.record(*args, **kwargs)
        self._put(name, Snapshot.of(recording, self.store, self._file(name)))
        self.count(net, net.macs)
        return sent(result, net.backend.device, HOST)

    def update(
        self,
        name: str,
        net: Incremental,
        region: Region,
        *args: Any,
        areas: Areas | None = None,
        told: Told = untold,
        **kwargs: Any,
    ) -> Any:
        """Run a network for a region, from the snapshot `name`; its result. `areas` as for `update_areas`.

        In a `meeting` it is computed with the updates of others, unless there are areas.

        told: is given the result when that is there; of one that is computed alone before what it computed is kept.
        """
        go_on()
        place = _meeting.get()
        if place is None or areas is not None:
            return self._update(name, net, region, (args, kwargs), areas, told)
        result = place.call(Request(self, name, net, region, (args, kwargs), _go_on.get()))
        told(result)
        return result

    def _update(
        self, name: str, net: Incremental, region: Region, inputs: Inputs, areas: Areas | None, told: Told
    ) -> Any:
        args, kwargs = sent(inputs, HOST, net.backend.device)
        with net.lock:  # from here on the workspace, which all sessions on a network share, is this update's
            recording = self._begun(name, net)
            recording.meanwhile = partial(self._fetch_following, name)
            there: list[Any] = []
            recording.told = partial(self._told, net, told, there)
            if areas is None:
                net.update(recording, region, *args, **kwargs)
            else:
                areas = replace(areas, values=sent(areas.values, HOST, net.backend.device))
                net.update_areas(recording, region, areas, *args, **kwargs)
        self._checked.add(net)
        self._updated(name, recording)
        return there.pop()

    def _told(self, net: Incremental, told: Told, there: list[Any], recording: Restored, result: Any) -> None:
        assert recording.schedule is not None
        self.count(net, net.macs_of(recording.schedule))
        there.append(sent(result, net.backend.device, HOST))
        told(there[0])

    def _updated(self, name: str, recording: Restored) -> None:
        self.bytes_read += recording.bytes_read
        if recording.snapshot is not self.snapshots[name]:
            self._put(name, recording.snapshot)

    @staticmethod
    def update_many(requests: Sequence[Request]) -> list[Any]:
        """The results of updates of one network, computed together; where all are the same, once."""
        first, *others = requests
        calls, net = first.calls, first.net
        if all(each.name == first.name and each.is_like(first) for each in others):
            result = calls._update(first.name, net, first.region, first.inputs, None, untold)
            for each in others:
                each.calls._share(calls, first.name)
            return [result] * len(requests)
        with net.lock:
            recordings = [each.calls._begun(each.name, net) for each in requests]
            inputs = sent([each.inputs for each in requests], HOST, net.backend.device)
            results = net.update_many(recordings, [each.region for each in requests], inputs)
        for each, recording in zip(requests, recordings, strict=True):
            assert recording.schedule is not None
            each.calls._checked.add(net)
            each.calls.count(net, net.macs_of(recording.schedule))
            each.calls._updated(each.name, recording)
        found: list[Any] = sent(results, net.backend.device, HOST)
        return found

    def _begun(self, name: str, net: Incremental) -> Restored:
        """A recording that is to be updated."""
        recording = self._opened(name)
        recording.file = self._file(name)
        recording.uses, recording.call = self._steps(net), self._number(name, net)
        recording.trusted = net in self._checked
        return recording

    def take(self, other: Calls) -> None:
        """Go on after the calls of another version, which are in memory."""
        for name, layer in other.added:
            file = self._file(name)
            if file is not None:
                blocks.write(file, layer.block)
            self._put(name, other.snapshots[name])
        self.bytes_read, self.macs, self.dense_macs = other.bytes_read, other.macs, other.dense_macs

    def _share(self, first: Calls, name: str) -> None:
        """Take over the last call of another one, which was the same."""
        self.bytes_read, self.macs, self.dense_macs = first.bytes_read, first.macs, first.dense_macs
        if first.snapshots[name] is not self.snapshots[name]:
            self._put(name, first.snapshots[name])

    def count(self, net: Incremental, macs: int) -> None:
        """Add what one call of a network has computed."""
        self.macs += macs
        self.dense_macs += net.macs

    def _steps(self, net: Incremental) -> int:
        """Calls of a network, which have their region in common."""
        return sum(each.net is net for each in self.snapshots.values())

    def _number(self, name: str, net: Incremental) -> int:
        """Which of them a call is."""
        return [key for key, each in self.snapshots.items() if each.net is net].index(name)

    def _opened(self, name: str) -> Restored:
        coming, self._coming = self._coming, None
        known = coming is not None and coming.snapshot is self.snapshots[name]
        return coming if coming is not None and known else self.snapshots[name].recording()

    def _fetch_following(self, name: str, recording: Restored) -> None:
        """Begin to bring what the next call of the network reads, if it computes what this one did."""
        names, net = list(self.snapshots), self.snapshots[name].net
        following = next((n for n in names[names.index(name) + 1 :] if self.snapshots[n].net is net), None)
        if following and recording.schedule and net.backend.transfers:
            restored = self.snapshots[following].recording()
            try:
                restored.fetch(recording.schedule.around, recording.schedule.before)
            except (RuntimeError, MemoryError) as error:
                if not lacks_memory(error):
                    raise
                return  # there may be room when the call begins, which fetches for itself
            self._coming = restored

    def _put(self, name: str, snapshot: Snapshot) -> None:
        self.snapshots[name] = snapshot
        self.added.append((name, snapshot.layers[-1]))

    def _file(self, name: str) -> Path | None:
        return self.folder / layer_file(name, len(self.added)) if self.folder else None


def run_whole(net: Incremental, *args: Any, **kwargs: Any) -> Any:
    """The module's own result, densely. Arguments and results are on the host."""
    go_on()
    args, kwargs = sent((args, kwargs), HOST, net.backend.device)
    with torch.no_grad():
        return sent(net(*args, **kwargs), net.backend.device, HOST)
