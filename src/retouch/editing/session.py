"""Editing sessions: versions of an image, undo, redo, branches, saving. What an edit computes is a subclass's.

A version is immutable: snapshots of every recorded network call, a few tensors, and facts. A session is a
tree of versions and a place in it, both replaced at once, so reading them takes no lock, and neither does `submit`.
What makes or moves versions holds the session's lock, an edit or a job as long as it is computed. So `undo`, `redo` and
`go` stop the session's jobs first, and wait for one network call at most; they wait for an `edit` of another thread.
Refinements hold the lock only to replace a version; folding, which is not begun while somebody has it, for the layers
of one call at a time. Locks are taken in one order: a session's, that of an editor's caches, a compiled network's, a
store's. Those of workers and jobs are held while nothing else is locked or called.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

import torch
from PIL import Image
from torch import Tensor

from retouch.editing.archive import Archive, Progress, silent
from retouch.editing.calls import Calls, Cancelled, go_on
from retouch.editing.collection import COLLECTION
from retouch.editing.fields import Fields
from retouch.editing.history import History
from retouch.editing.identity import check_identity, identity
from retouch.editing.images import HURRIED, Pixels, as_pixels, save_png
from retouch.editing.jobs import Job, SessionError, Task, origin_now
from retouch.editing.manifest import PICTURE, TENSORS, ArchiveError, Entry, Manifest, folder_name, layer_file
from retouch.editing.replay import checksum, decoded, patch, patched, trimmed
from retouch.editing.version import Version
from retouch.editing.worker import Worker, worker_of
from retouch.errors import ReplayWarning
from retouch.incremental import Incremental
from retouch.runtime import blocks
from retouch.runtime.blocks import StoreError
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.state.layers import Layer, layer_of
from retouch.runtime.store import Store

S = TypeVar("S", bound="Session")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


GAIN = 1.5
"""How many times faster edits of several sessions are predicted to be together than one by one where they are computed
so: they end together, the first with the last. Measured updates gain about two thirds of what is predicted beyond 1.
"""


def locked(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method of a session that one thread runs at a time, once the session is opened."""

    @wraps(method)
    def call(session: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        session.wait_until_open()
        with session.lock, COLLECTION.held():
            return method(session, *args, **kwargs)

    return call


class Session(ABC):
    """Versions of an edited image. Made by an editor, or by `retouch.open`.

    Versions are a tree: an edit after `undo` begins a branch, and `go` reaches every version. That and `branch` cost
    nothing; nothing that a version holds is ever written again. A session in a folder keeps every edit there as soon as
    it is made: its picture and what it was asked, of which its layers can be made again; the layers of the current
    version follow when it is closed (`settle`). Several threads may use one session.

    opening: the job that records the first version, where `wait=False` opened the session; None elsewhere.
    kind: its name in manifests. saved_settings, saved_facts: what manifests say of such sessions beside the common.
    light_tensors: the tensors of versions that a light session keeps.
    """

    kind: ClassVar[str]
    saved_settings: ClassVar[Fields] = {}
    saved_facts: ClassVar[Fields] = {}
    light_tensors: ClassVar[Sequence[str]] = ()

    def __init__(self, store: Store, settings: dict[str, Any]) -> None:
        self.store, self.settings = store, settings
        self.archive: Archive | None = None
        self.opening: Job[Self] | None = None
        self.awaited: Mapping[str, Tensor] = {}  # of the first version, before there is one
        self.lock = RLock()
        self._closed = self._dropped = self._gathers = False
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

    def remake(self, version: Version, parent: Version | None, calls: Calls, progress: Progress) -> dict[str, Tensor]:
        """The tensors of a version, computed by `calls` as when it was made from its parent (None: recorded); of kinds
        that have calls.
        """
        raise NotImplementedError

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

    # Versions whose layers were dropped

    @locked
    def ready(self, progress: Progress = silent) -> None:
        """Make the layers of the current version again if they were dropped; an edit does so, too, before it begins."""
        self._with_layers(self.version.number, progress)

    def _with_layers(self, number: int, progress: Progress = silent) -> Version:
        path = self._history.path(number) if self.calls() else ()
        there = max((place for place, version in enumerate(path) if version.snapshots), default=-1)
        for place in range(there + 1, len(path)):
            progress(place - there - 1, len(path) - there - 1, f"making version {path[place].number} again")
            parent = self._history[path[place - 1].number] if place else None
            self._history = self._history.replaced(self._again(path[place], parent, progress if not place else silent))
        return self._history[number]

    def _again(self, version: Version, parent: Version | None, progress: Progress) -> Version:
        """A version with its layers, computed again; its picture stays what it was in any case."""
        calls = Calls(self.store, parent.snapshots if parent else {}, None)
        with self.worker.claimed():
            tensors = self.remake(version, parent, calls, progress)
        if checksum(tensors) != version.facts["checksum"]:
            warnings.warn(
                f"version {version.number} was made again, and not with the same bytes as at first (another machine, "
                "other versions of libraries?); its picture is kept, edits go on from what was made now",
                ReplayWarning,
                stacklevel=2,
            )
        tensors["image"] = version.tensors["image"]
        return replace(version, snapshots=calls.snapshots, added=tuple(calls.added), tensors=tensors)

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
        first = self.archive if self.archive and not (self.versions or self.archive.light) else None
        name = folder_name(0, first.revision) if first else ""
        folder = first.staging(name) if first else None
        try:
            with self.worker.claimed():
                snapshots = self._with_layers(self.version.number).snapshots if self.versions else {}
                yield Calls(self.store, snapshots, folder)
        finally:
            if first and not self.versions:
                first.discard(name)
            if self._dropped:  # nobody holds the history before any more
                self._dropped = False
                for net in self.networks().values():
                    net.backend.release()

    def _put(
        self, calls: Calls, tensors: dict[str, Tensor], facts: dict[str, Any], drawn: Mapping[str, bytes] | None = None
    ) -> None:
        """Make what was computed the current version, and keep it in the folder if there is one."""
        facts = {**facts, "bytes_read": calls.bytes_read, "macs": calls.macs, "dense_macs": calls.dense_macs}
        if drawn is not None:
            facts["checksum"] = checksum(tensors)
        if keys := origin_now().keys:
            facts["keys"] = list(keys)
        parent = self.version.number if self.versions else None
        version = Version(self._next, calls.snapshots, tensors, facts, tuple(calls.added), parent=parent, drawn=drawn)
        if self.archive:
            version = self._kept(self.archive, replace(version, revision=self.archive.revision), calls.folder)
        self._commit(self._history.added(version))
        self._next += 1
        self._fold_later()

    @contextmanager
    def sealed_together(self) -> Iterator[None]:
        """Versions that are made in a block are in the folder all at once, when it ends; none is if it fails."""
        with self.lock:
            before, self._gathers = self._history, True
            try:
                yield
                self._gathers = False
                self._commit(self._history)
            except BaseException:
                self._history = before
                raise
            finally:
                self._gathers = False

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
            if self.version.drawn is not None:
                facts = {**facts, "checksum": checksum(tensors)}
            version = replace(
                self.version,
                snapshots=calls.snapshots,
                tensors=tensors,
                facts=facts,
                added=tuple(calls.added),
                files={},
                saved=(),
                revision=max(old.revision + 1, self.archive.revision if self.archive else 0),
            )
            if self.archive:
                version = self._kept(self.archive, version)
            self._commit(self._history.replaced(version))
            self._fold_later()
            return version

    # Layers

    def _fold_later(self) -> None:
        if any(snapshot.is_deep for snapshot in self.version.snapshots.values()):
            self.worker.later(self, self.fold)

    def fold(self) -> bool:
        """Fold layers of a call of the current version, if any has many and nobody uses the session. True while others
        have; edits do so beyond a limit, if there was no time for it.
        """
        if self._closed or not self.lock.acquire(blocking=False):
            return False
        try:
            version = self.version
            deep = [name for name, snapshot in version.snapshots.items() if snapshot.is_deep]
            for name in deep[:1]:
                with self.network(name).lock:
                    snapshots = {**version.snapshots, name: version.snapshots[name].folded()}
                self._history = self._history.replaced(replace(version, snapshots=snapshots))
            return len(deep) > 1
        except StoreError:  # the edit that has to fold them says so
            return False
        finally:
            self.lock.release()

    # Folders

    @property
    def folder(self) -> Path | None:
        """Where the session is saved; None: nowhere."""
        return self.archive.path if self.archive else None

    @locked
    def save(self, path: str | Path, progress: Progress = silent, *, light: bool = False) -> Path:
        """Save all versions to a new folder and keep later edits there too; the folder.

        light: keep no layers, but what edits were asked and what they changed, a few kilobytes each; `retouch.open`
            makes the recording and the current version again. SessionError for versions of which that is not known.

        Raises StoreError (ArchiveError) when the folder is in use or not empty, or the disk is full; the
        session and what was saved before stay as they are.
        """
        path = Path(path)
        if self.archive and path.resolve() == self.archive.path.resolve():
            return path
        if light and (unknown := [version.number for version in self.versions if version.drawn is None]):
            raise SessionError(f"what version {unknown[0]} was asked is not known; save the session without light=True")
        archive = Archive.create(path, light)
        try:
            saved = []
            for number, version in enumerate(self.versions):
                progress(number, len(self.versions), f"saving version {number}")
                there = version if light else self._with_layers(version.number)
                saved.append(self._written(archive, there))
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
        try:
            self.settle()
        except StoreError as error:
            warnings.warn(f"{error}; the last edits are made again when the session is opened", stacklevel=2)
        finally:
            self._leave()

    @locked
    def settle(self) -> None:
        """Put what the current version has computed into the folder, if it has one and that is not there: whoever opens
        it next need not make it again. Closing a session does so, and a refinement at its end. StoreError when the disk
        is full.
        """
        archive, version = self.archive, self.version if self.versions else None
        if archive is None or archive.light or archive.is_lost or not version or version.saved or not version.snapshots:
            return
        path = self._history.path(version.number)
        below = next(each for each in reversed(path[:-1]) if each.saved).snapshots
        layers = {name: each.above(_settled(below.get(name), each)) for name, each in version.snapshots.items()}
        added = tuple((name, layer) for name, layer in layers.items() if layer is not None)
        made = replace(version, files={}, revision=max(version.revision + 1, archive.revision))
        self._commit(self._history.replaced(self._in_folder(archive, made, added)))

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
        """A version in the folder, with its layers where that is to hold any."""
        return self._in_folder(archive, version, version.added)

    def _kept(self, archive: Archive, version: Version, folder: Path | None = None) -> Version:
        """A version that was just made in the folder; without its layers where they can be made again.

        folder: where they are in files already.
        """
        if folder is not None:
            return self._sealed(archive, replace(version, saved=_files(version.added)))
        return self._in_folder(archive, version, version.added if version.drawn is None else ())

    def _in_folder(self, archive: Archive, version: Version, layers: Sequence[tuple[str, Layer]]) -> Version:
        """A version in the folder, with layers unless that holds none; nothing is left of it when that fails."""
        folder, files = archive.staging(version.folder), _files(() if archive.light else layers)
        try:
            for (_, layer), (_, file) in zip(layers, files, strict=False):
                go_on()
                blocks.write(folder / file, layer.block)
            return self._sealed(archive, replace(version, saved=files))
        except BaseException:
            archive.discard(version.folder)
            raise

    def _sealed(self, archive: Archive, version: Version) -> Version:
        """A version whose layers are in files already, with the rest written too."""
        folder = archive.staged(version.folder)
        names = self.light_tensors if archive.light else version.tensors
        if names:
            blocks.write(folder / TENSORS, blocks.Block.of({name: version.tensors[name] for name in names}, {}))
        pictures = self.pictures(version) | ({PICTURE: self._patch(version)} if archive.light else {})
        for name, pixels in pictures.items():
            save_png(Image.fromarray(pixels), folder / name, **HURRIED)
        archive.write(folder, version.drawn or {})
        return replace(version, files=archive.seal(version.folder))

    def _patch(self, version: Version) -> Pixels:
        """What a version changed in the picture of its parent; the first one's picture."""
        parent = None if version.parent is None else self._history[version.parent]
        return version.pixels if parent is None else patch(version.pixels, parent.pixels)

    def _commit(self, history: History[Version]) -> None:
        """Make that the session's history, in its folder first; without old edits' layers when they take too much."""
        if self.archive is not None and not self._gathers:
            self._write(history, self.archive)
        small = self.store.taken <= self.store.history
        self._history = history if small else trimmed(history, self.store.history)
        self._dropped = self._dropped or self._history is not history

    def _write(self, history: History[Version], archive: Archive) -> None:
        manifest = self._manifest(history)
        if archive.light:
            manifest = manifest.without_layers()
        archive.commit(manifest)
        archive.clean(manifest.folders)

    def _manifest(self, history: History[Version]) -> Manifest:
        first = history.versions[0]
        networks = {name: identity(net, _hashes(net, first)) for name, net in self.networks().items()}
        entries = tuple(
            Entry(
                version.number,
                version.facts,
                tuple(version.saved),
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
            if not archive.light:  # what is computed now needs no other networks than these
                check_identity(name, manifest.networks.get(name), identity(net, net.weights.hashes))
        versions: dict[int | None, Version] = {}
        stacks: dict[int | None, Mapping[str, Snapshot]] = {None: {}}
        for entry in manifest.versions:
            if archive.light:
                versions[entry.number] = self._light(archive, entry, versions.get(entry.parent))
            else:
                versions[entry.number] = found = self._loaded(archive, entry, stacks[entry.parent])
                stacks[entry.number] = found.snapshots or stacks[entry.parent]
        saved = manifest.history
        self._history = History(tuple(versions.values()), saved.current, saved.tip)
        self._next = 1 + max(manifest.numbers)
        self.archive = archive

    def _light(self, archive: Archive, entry: Entry, parent: Version | None) -> Version:
        """The version of an entry without layers."""
        drawn = archive.drawn(entry)
        if drawn is None:
            raise ArchiveError(f"version {entry.number} in {archive.path} cannot be made again; it cannot be trusted")
        folder = archive.folder(entry.folder)
        tensors = dict(blocks.read(folder / TENSORS).tensors) if self.light_tensors else {}
        pixels = (
            as_pixels(folder / PICTURE)
            if parent is None
            else patched(parent.pixels, decoded(archive.read(entry, PICTURE)))
        )
        tensors["image"] = torch.from_numpy(pixels)
        return Version.of(entry, {}, tensors, (), drawn)

    def _loaded(self, archive: Archive, entry: Entry, snapshots: Mapping[str, Snapshot]) -> Version:
        """The version of an entry, on top of the snapshots of the nearest ancestor that has any."""
        folder, calls = archive.folder(entry.folder), self.calls()
        unknown = [name for name, _ in entry.layers if name not in calls]
        if unknown:
            raise ArchiveError(
                f"version {entry.number} in {archive.path} has a call {unknown[0]!r} that no session has"
            )
        added = [(name, layer_of(self.network(name), blocks.read(folder / file))) for name, file in entry.layers]
        for name, layer in added:
            snapshots = {**snapshots, name: self._grown(snapshots.get(name), name, layer)}
        tensors, drawn = blocks.read(folder / TENSORS).tensors, archive.drawn(entry)
        bare = entry.parent is not None and not added and drawn is not None
        version = Version.of(entry, {} if bare else snapshots, tensors, tuple(added), drawn)
        if snapshots.keys() != calls.keys() or not self.is_complete(version):
            raise ArchiveError(f"version {version.number} in {archive.path} is incomplete; it cannot be trusted")
        return version

    def _grown(self, old: Snapshot | None, name: str, layer: Layer) -> Snapshot:
        net = self.network(name)
        if old is None and not layer.whole(net.plan.kept):
            raise ArchiveError(f"the session holds no whole recording of {name}; it cannot be trusted")
        if old is not None:
            return replace(old, layers=(*old.layers, layer))
        return Snapshot(net, self.store, (layer,), tuple(net.weights.hashes))

    # Reports

    @property
    def recording_bytes(self) -> int:
        """Bytes that the recording of the first version takes, about."""
        return sum(self.network(name).plan.kept_bytes for name in self.calls())

    @property
    def held_bytes(self) -> int:
        """Bytes that all versions take."""
        return sum(version.nbytes for version in self.versions)

    def info(self) -> dict[str, Any]:
        """What the session holds: bytes stored (device, memory, files, per network call), and read by each edit."""
        versions, current = self.versions, self.version
        return {
            "kind": self.kind,
            "folder": str(self.folder) if self.folder else None,
            "settings": dict(self.settings),
            "storage": self.store.dtype_name,
            "bytes": {
                "total": self.held_bytes,
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
        """Bytes of the self-attention keys and values of each call, or of what they are computed of, which every edit
        reads whole.
        """
        return {
            name: sum(v.rows * snapshot.layers[0].form.row_bytes(v) for v in self.network(name).plan.keys_values)
            for name, snapshot in version.snapshots.items()
        }


def _settled(below: Snapshot | None, snapshot: Snapshot) -> int:
    """How many layers of a snapshot need not be written: those of one that lies in the folder, where they are below it,
    else the recording.
    """
    held = below.layers if below else ()
    return len(held) if held and held == snapshot.layers[: len(held)] else 1


def _files(layers: Sequence[tuple[str, Layer]]) -> tuple[tuple[str, str], ...]:
    """The names of files for layers, by their snapshots."""
    return tuple((name, layer_file(name, place)) for place, (name, _) in enumerate(layers))


def _report(version: Version) -> dict[str, Any]:
    told = {"number": version.number, "parent": version.parent, "name": version.name, "bytes": version.nbytes}
    return {**told, **version.facts}


def _hashes(net: Incremental, version: Version) -> Sequence[int]:
    """Hashes of the weights that the recordings of `net` in a version were made with; its own where there are none."""
    made = (snapshot.hashes for snapshot in version.snapshots.values() if snapshot.net is net)
    return next(made, net.weights.hashes)
