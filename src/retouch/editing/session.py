"""Editing sessions: versions of an image, undo, redo, branches, saving. What an edit computes is a subclass's.

A version is immutable: snapshots of every recorded network call, a few tensors, and facts. A session is a
tree of versions and a place in it, both replaced at once, so reading them takes no lock, and neither does `submit`.
What makes or moves versions holds the session's lock, an edit or a job as long as it is computed. So `undo`, `redo` and
`go` stop the session's jobs first, and wait for one network call at most; they wait for an `edit` of another thread.
Refinements hold the lock only to replace a version. Locks are taken in one order: a session's, that of an editor's
caches, a compiled network's, a store's. Those of workers and jobs are held while nothing else is locked or called.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar, Concatenate, ParamSpec, Protocol, Self, TypeVar

from PIL import Image
from torch import Tensor

import retouch.runtime.store as blocks
from retouch.editing.archive import Archive, Progress, silent
from retouch.editing.calls import Calls, Cancelled
from retouch.editing.history import History
from retouch.editing.images import Pixels, save_png
from retouch.editing.jobs import Job, SessionError, Task
from retouch.editing.manifest import PICTURE, TENSORS, ArchiveError, Entry, Fields, Manifest, folder_name, layer_file
from retouch.editing.worker import Worker, worker_of
from retouch.incremental import Incremental
from retouch.ir.program import Read
from retouch.plan.region import Region
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.state.layers import Layer, layer_of
from retouch.runtime.store import Block, Store

S = TypeVar("S", bound="Session")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def locked(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method of a session that one thread runs at a time, once the session is opened."""

    @wraps(method)
    def call(session: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        session.wait_until_open()
        with session.lock:
            return method(session, *args, **kwargs)

    return call


@dataclass(frozen=True, eq=False)
class Version:
    """One state of a session. `revision` counts the refinements that took its place.

    `parent` is the number of the version that it was made from (None: the first), `added` are the layers that it added
    to that one's snapshots, by the snapshot's name. `name` is what somebody called it.
    `tensors` holds `image` uint8 `[H, W, 3]` and what the kind of session needs; `facts` are plain data.
    """

    number: int
    snapshots: Mapping[str, Snapshot]
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    added: Sequence[tuple[str, Layer]]
    files: Mapping[str, Any] = field(default_factory=dict)
    parent: int | None = None
    name: str | None = None
    revision: int = 0

    @property
    def folder(self) -> str:
        """The name of its folder where the session is saved."""
        return folder_name(self.number, self.revision)

    @property
    def pixels(self) -> Pixels:
        """The image, uint8 `[H, W, 3]`; a copy."""
        return self.tensors["image"].numpy().copy()

    @property
    def nbytes(self) -> int:
        """Bytes of what this version added."""
        return sum(layer.nbytes for _, layer in self.added) + sum(t.nbytes for t in self.tensors.values())


class Estimate(Protocol):
    """How far an edit may be from what the dense model makes of it."""

    @property
    def error(self) -> float:
        """The estimate in grey levels; it may be computed when it is first asked for."""


@dataclass(frozen=True, eq=False)
class Edited:
    """The result of an edit: the image, its region in pixels, and seconds by what they were spent on."""

    image: Image.Image
    region: Region
    seconds: dict[str, float]
    estimate: Estimate | None = None

    @property
    def error(self) -> float | None:
        """An estimate of how far the image is from what the dense model makes of the edit: the root mean square
        difference inside the region in grey levels. None where nothing is known to estimate it from.

        The first look costs what its kind of session says; the edit itself does not wait for it.
        """
        return self.estimate.error if self.estimate else None

    @property
    def changed(self) -> bool:
        """False when the edit changed nothing."""
        return bool(self.region.mask.any())


class Session(ABC):
    """Versions of an edited image. Made by an editor, or by `retouch.open`.

    Versions are a tree: an edit after `undo` begins a branch, and `go` reaches every version. That and `branch` cost
    nothing; nothing that a version holds is ever written again. A session in a folder keeps every edit there as soon as
    it is made. Several threads may use one session.

    opening: the job that records the first version, where `wait=False` opened the session; None elsewhere.
    kind: its name in manifests. saved_settings, saved_facts: what manifests say of such sessions beside the common.
    """

    kind: ClassVar[str]
    saved_settings: ClassVar[Fields] = {}
    saved_facts: ClassVar[Fields] = {}

    def __init__(self, store: Store, settings: dict[str, Any]) -> None:
        self.store, self.settings = store, settings
        self.archive: Archive | None = None
        self.opening: Job[Self] | None = None
        self.awaited: Mapping[str, Tensor] = {}  # of the first version, before there is one
        self.lock = RLock()
        self._closed = False
        self._history: History[Version] = History()
        self._next = 0

    # What a kind of session says

    @abstractmethod
    def calls(self) -> dict[str, str]:
        """The names of the recorded calls, with those of their networks."""

    @abstractmethod
    def networks(self) -> dict[str, Incremental]:
        """All networks by name."""

    def network(self, name: str) -> Incremental:
        """The network of the snapshots of that name."""
        return self.networks()[self.calls()[name]]

    def pictures(self, version: Version) -> dict[str, Pixels]:
        """What a saved version shows, by file name."""
        return {PICTURE: version.pixels}

    @abstractmethod
    def is_complete(self, version: Version) -> bool:
        """True when the tensors of a version that was read from a file are those that sessions of this kind have."""

    # State

    @property
    def history(self) -> History[Version]:
        """The tree of versions."""
        return self._history

    @property
    def versions(self) -> tuple[Version, ...]:
        """All versions, in the order in which they were made."""
        return self._history.versions

    @property
    def position(self) -> int:
        """The place of the current version among them."""
        history = self._history
        return history.place(history.current)

    @property
    def version(self) -> Version:
        """The current version. SessionError where there is none yet, as the session is being opened."""
        history = self._history
        if not history.versions:
            raise SessionError(f"there is no version: {self._why_none()}")
        return history[history.current]

    def tensor(self, name: str) -> Tensor:
        """A tensor of the current version, or while the session is being opened that of its first, if it is known.

        SessionError where it is not.
        """
        if not self.versions and name in self.awaited:
            return self.awaited[name]
        return self.version.tensors[name]

    def _why_none(self) -> str:
        going = self.opening is not None and not self.opening.done()
        return "wait for session.opening.result()" if going else "the session was not recorded; open it again"

    @property
    def pixels(self) -> Pixels:
        """The current image, uint8 `[H, W, 3]`; a copy. SessionError where there is none yet."""
        return self.tensor("image").numpy().copy()

    @property
    def image(self) -> Image.Image:
        """The current image."""
        return Image.fromarray(self.pixels)

    def undo(self) -> Image.Image:
        """Cancel the session's jobs and go back to the version that this one was made from; its image. UndoError at
        the first.
        """
        return self._go(lambda history: history.undone())

    def redo(self) -> Image.Image:
        """Cancel the session's jobs and go to the version that was undone last; its image. UndoError when there is
        none.
        """
        return self._go(lambda history: history.redone())

    def go(self, number: int) -> Image.Image:
        """Cancel the session's jobs and go to any version by its number; its image. UndoError when there is none."""
        return self._go(lambda history: history.at(number))

    def _go(self, to: Callable[[History[Version]], History[Version]]) -> Image.Image:
        if self.versions:
            self.worker.cancel_all(self)
        return self._moved(to)

    @locked
    def rename(self, number: int, name: str | None) -> None:
        """Call a version something; None takes its name away. UndoError when there is no such version."""
        self._commit(self._history.replaced(replace(self._history[number], name=name)))

    @locked
    def forget(self, number: int) -> None:
        """Remove a version and all that was made from it. UndoError when the current one is among them."""
        self._commit(self._history.without(number))

    @locked
    def _moved(self, to: Callable[[History[Version]], History[Version]]) -> Image.Image:
        self._commit(to(self._history))
        return self.image

    @locked
    def branch(self) -> Self:
        """Another session at the current version; it shares what both have in common and is not saved yet."""
        twin: Self = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        number = self._history.current
        twin._history = History(self._history.past, number, number)
        twin.archive, twin.lock, twin.opening, twin._closed = None, RLock(), None, False
        return twin

    # Jobs

    @property
    def worker(self) -> Worker:
        """What computes the jobs of all sessions on this one's device."""
        return worker_of(next(iter(self.networks().values())).backend.device)

    def at_once(self, look: Callable[[], T]) -> T:
        """What `look` makes of one state of the session, without its lock: it looks again when that has changed."""
        while True:
            state = self._history
            found = look()
            if self._history is state:
                return found

    def start(self, task: Task[T], join: bool = False) -> Job[T]:
        """A job of this session. SessionError when the session is closed, or too much waits for its device."""
        if self._closed:
            raise SessionError("the session is closed and takes no jobs; open it again")
        return self.worker.submit(self, task, join)

    def wait_until_open(self) -> None:
        """Wait until the session is opened, or that has failed; not in the thread that does it."""
        if self.opening is not None and not (self.opening.done() or self.worker.is_here()):
            wait([self.opening])

    # Making versions

    @contextmanager
    def _making(self) -> Iterator[Calls]:
        """Network calls for a new version. Unless that is put, the session stays as it was."""
        number = self._next
        folder = self.archive.staging(folder_name(number)) if self.archive else None
        try:
            with self.worker.claimed():
                yield Calls(self.store, self.version.snapshots if self.versions else {}, folder)
        finally:
            if self.archive and self._next == number:
                self.archive.discard(folder_name(number))

    def _put(self, calls: Calls, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Make what was computed the current version, and keep it in the folder if there is one."""
        facts = {**facts, "bytes_read": calls.bytes_read, "macs": calls.macs, "dense_macs": calls.dense_macs}
        parent = self.version.number if self.versions else None
        version = Version(self._next, calls.snapshots, tensors, facts, tuple(calls.added), parent=parent)
        if self.archive:
            version = self._sealed(self.archive, version)
        self._commit(self._history.added(version))
        self._next += 1

    def is_last(self, version: Version) -> bool:
        """True for the current version if nothing was made from it."""
        history, current = self._history, self.version
        same = (current.number, current.revision) == (version.number, version.revision)
        return same and len(history.descendants(current.number)) == 1

    def replace(self, old: Version, calls: Calls, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Version:
        """Put what was computed in the place of the last version, if that is still `old`; raises Cancelled if not."""
        with self.lock:
            if not self.is_last(old):
                raise Cancelled
            version = replace(
                self.version,
                snapshots=calls.snapshots,
                tensors=tensors,
                facts=facts,
                added=tuple(calls.added),
                files={},
                revision=old.revision + 1,
            )
            if self.archive:
                version = self._written(self.archive, version)
            self._commit(self._history.replaced(version))
            return version

    # Folders

    @property
    def folder(self) -> Path | None:
        """Where the session is saved; None: nowhere."""
        return self.archive.path if self.archive else None

    @locked
    def save(self, path: str | Path, progress: Progress = silent) -> Path:
        """Save all versions to a new folder and keep later edits there too; the folder.

        Raises StoreError (ArchiveError) when the folder is in use or not empty, or the disk is full; the
        session and what was saved before stay as they are.
        """
        path = Path(path)
        if self.archive and path.resolve() == self.archive.path.resolve():
            return path
        archive = Archive.create(path)
        try:
            saved = []
            for number, version in enumerate(self.versions):
                progress(number, len(self.versions), f"saving version {number}")
                saved.append(self._written(archive, version))
            self._write(history := replace(self._history, versions=tuple(saved)), archive)
        except BaseException:
            archive.abandon()
            raise
        self._leave()
        self._history, self.archive = history, archive
        return path

    def close(self) -> None:
        """Cancel the session's jobs and leave the folder to others; later edits are not saved, jobs are refused."""
        self._closed = True
        self.worker.cancel_all(self)
        self._leave()

    @locked
    def _leave(self) -> None:
        if self.archive:
            self.archive.close()
        self.archive = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _written(self, archive: Archive, version: Version) -> Version:
        """A version with its layers in files."""
        folder = archive.staging(version.folder)
        for place, (name, layer) in enumerate(version.added):
            blocks.write(folder / layer_file(name, place), layer.block)
        return self._sealed(archive, version)

    def _sealed(self, archive: Archive, version: Version) -> Version:
        """A version whose layers are in files already, with the rest written too."""
        folder = archive.staged(version.folder)
        blocks.write(folder / TENSORS, Block(dict(version.tensors), {}))
        for name, pixels in self.pictures(version).items():
            save_png(pixels, folder / name)
        return replace(version, files=archive.seal(version.folder))

    def _commit(self, history: History[Version]) -> None:
        """Make that the session's history, in its folder first."""
        if self.archive is not None:
            self._write(history, self.archive)
        self._history = history

    def _write(self, history: History[Version], archive: Archive) -> None:
        manifest = self._manifest(history)
        archive.commit(manifest)
        archive.clean(manifest.folders)

    def _manifest(self, history: History[Version]) -> Manifest:
        first = history.versions[0]
        networks = {name: identity(net, _hashes(net, first)) for name, net in self.networks().items()}
        entries = tuple(
            Entry(
                version.number,
                version.facts,
                tuple((name, layer_file(name, place)) for place, (name, _) in enumerate(version.added)),
                version.files,
                version.parent,
                version.name,
                version.revision,
            )
            for version in history.versions
        )
        place = history.place
        return Manifest(
            self.kind,
            self.settings,
            self.store.dtype_name,
            networks,
            entries,
            place(history.current),
            place(history.tip),
        )

    def load(self, archive: Archive, manifest: Manifest) -> None:
        """Take over what a folder holds. Raises ArchiveError when it was recorded with other networks."""
        for name, net in self.networks().items():
            net.weights.refresh()
            _check_identity(name, manifest.networks.get(name), identity(net, net.weights.hashes))
        versions: dict[int | None, Version] = {}
        for entry in manifest.versions:
            parent = versions.get(entry.parent)
            versions[entry.number] = self._loaded(archive, entry, parent.snapshots if parent else {})
        saved = manifest.history
        self._history = History(tuple(versions.values()), saved.current, saved.tip)
        self._next = 1 + max(manifest.numbers)
        self.archive = archive

    def _loaded(self, archive: Archive, entry: Entry, snapshots: Mapping[str, Snapshot]) -> Version:
        """The version of an entry, on top of the snapshots of its parent."""
        folder, calls = archive.folder(entry.folder), self.calls()
        unknown = [name for name, _ in entry.layers if name not in calls]
        if unknown:
            raise ArchiveError(
                f"version {entry.number} in {archive.path} has a call {unknown[0]!r} that no session has"
            )
        added = [(name, layer_of(self.network(name), blocks.read(folder / file))) for name, file in entry.layers]
        for name, layer in added:
            snapshots = {**snapshots, name: self._grown(snapshots.get(name), name, layer)}
        tensors = blocks.read(folder / TENSORS).tensors
        version = Version(
            entry.number,
            snapshots,
            tensors,
            entry.facts,
            tuple(added),
            entry.files,
            entry.parent,
            entry.name,
            entry.revision,
        )
        if snapshots.keys() != calls.keys() or not self.is_complete(version):
            raise ArchiveError(f"version {version.number} in {archive.path} is incomplete; it cannot be trusted")
        return version

    def _grown(self, old: Snapshot | None, name: str, layer: Layer) -> Snapshot:
        net = self.network(name)
        if old is None and not layer.whole(net.plan.kept):
            raise ArchiveError(f"the session holds no whole recording of {name}; it cannot be trusted")
        layers = (*old.layers, layer) if old else (layer,)
        return Snapshot(net, self.store, layers, tuple(net.weights.hashes))

    # Reports

    @property
    def recording_bytes(self) -> int:
        """Bytes that the recording of the first version takes, about."""
        return sum(self.network(name).plan.kept_bytes for name in self.calls())

    def info(self) -> dict[str, Any]:
        """What the session holds: bytes stored (device, memory, files, per network call), and read by each edit."""
        versions, current = self.versions, self.version
        return {
            "kind": self.kind,
            "folder": str(self.folder) if self.folder else None,
            "settings": dict(self.settings),
            "storage": self.store.dtype_name,
            "bytes": {
                "total": sum(version.nbytes for version in versions),
                "device": self.store.on_device,
                "memory": self.store.in_memory,
                "temporary_files": self.store.in_files,
                "calls": {name: snapshot.nbytes for name, snapshot in current.snapshots.items()},
                "keys_and_values": self._key_bytes(current),
            },
            "current": versions.index(current),
            "versions": [_report(version) for version in versions],
        }

    def _key_bytes(self, version: Version) -> dict[str, int]:
        """Bytes of the self-attention keys and values of each call, which every edit reads whole."""
        return {
            name: sum(v.rows * v.channels * self.store.stored(v.dtype).itemsize for v in _keys(self.network(name)))
            for name in version.snapshots
        }


def _keys(net: Incremental) -> set[Any]:
    """Kept values that attention reads whole."""
    found = set()
    for op in net.program.ops:
        found |= {net.plan.place(v)[0] for v, how in op.operands() if how is Read.ALL}
    return found & set(net.plan.kept)


def _report(version: Version) -> dict[str, Any]:
    told = {"number": version.number, "parent": version.parent, "name": version.name, "bytes": version.nbytes}
    return {**told, **version.facts}


def identity(net: Incremental, hashes: Sequence[int]) -> dict[str, Any]:
    """What a recording depends on: the program, the hashes of the weights, the policy, the backend."""
    return {
        "program": net.digest,
        "weights": hashlib.blake2b(repr(list(hashes)).encode(), digest_size=16).hexdigest(),
        "policy": asdict(net.policy),
        "backend": net.backend.name,
    }


def _hashes(net: Incremental, version: Version) -> Sequence[int]:
    """Hashes of the weights that the recordings of `net` in a version were made with; its own where there are none."""
    made = (snapshot.hashes for snapshot in version.snapshots.values() if snapshot.net is net)
    return next(made, net.weights.hashes)


_DIFFERENT = {
    "program": "another network, or one captured by other versions of PyTorch or diffusers",
    "weights": "other weights",
    "policy": "another policy",
    "backend": 'the backend "{saved}", not "{found}": name that one, and a device that it runs on',
}


def _check_identity(name: str, saved: Mapping[str, Any] | None, found: dict[str, Any]) -> None:
    if saved is None:
        raise ArchiveError(f"the session was recorded without a network for the {name}; record it again")
    for part, meaning in _DIFFERENT.items():
        if saved[part] != found[part]:
            different = meaning.format(saved=saved[part], found=found[part])
            raise ArchiveError(f"the session was recorded with {different} (the {name}); or record it again")
