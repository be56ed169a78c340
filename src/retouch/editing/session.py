"""Editing sessions: versions of an image, undo, redo, branches, saving. What an edit computes is a subclass's.

A version is immutable: snapshots of every recorded network call, a few tensors, and facts. A session is a
list of versions and a place in it.
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from PIL import Image
from torch import Tensor

import retouch.runtime.store as blocks
from retouch.editing.archive import PICTURE, Archive, ArchiveError, Progress, silent
from retouch.editing.images import Pixels, save_png
from retouch.incremental import Incremental
from retouch.ir.program import Read
from retouch.kernels.devices import HOST, lacks_memory, moved
from retouch.plan.region import Region
from retouch.runtime.state.in_place import UndoError
from retouch.runtime.state.layered import Restored, Snapshot
from retouch.runtime.state.layers import Layer, layer_of
from retouch.runtime.store import Block, Store

TENSORS = "tensors.safetensors"


@dataclass(frozen=True, eq=False)
class Version:
    """One state of a session.

    `added` are the layers that it added to the snapshots of the version before, by the snapshot's name.
    `tensors` holds `image` uint8 `[H, W, 3]` and what the kind of session needs; `facts` are plain data.
    """

    number: int
    snapshots: Mapping[str, Snapshot]
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    added: Sequence[tuple[str, Layer]]
    files: Mapping[str, Any] = field(default_factory=dict)

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


class Calls:
    """The recorded network calls of a version that is being made. Arguments and results are on the host.

    Calls of one network follow each other in the order of their snapshots, so while the device computes one, what
    the next one reads is brought there.
    """

    def __init__(self, store: Store, snapshots: Mapping[str, Snapshot], folder: Path | None) -> None:
        self.store, self.folder = store, folder
        self.snapshots = dict(snapshots)
        self.added: list[tuple[str, Layer]] = []
        self.bytes_read = 0
        self._recorded: Incremental | None = None
        self._coming: Restored | None = None

    def record(self, name: str, net: Incremental, *args: Any, **kwargs: Any) -> Any:
        """Run a network whole and keep the recording under `name`; its result."""
        if self._recorded is not net:
            net.backend.release()  # memory of another network's recordings does not fit
            self._recorded = net
        args, kwargs = moved((args, kwargs), net.backend.device)
        result, recording = net.record(*args, **kwargs)
        self._put(name, Snapshot.of(recording, self.store, self._file(name)))
        return moved(result, HOST)

    def update(self, name: str, net: Incremental, region: Region, *args: Any, **kwargs: Any) -> Any:
        """Run a network for a region, from the snapshot `name`; its result."""
        recording = self._opened(name)
        recording.file = self._file(name)
        recording.meanwhile = partial(self._fetch_following, name)
        args, kwargs = moved((args, kwargs), net.backend.device)
        result = moved(net.update(recording, region, *args, **kwargs), HOST)
        self.bytes_read += recording.bytes_read
        if recording.snapshot is not self.snapshots[name]:
            self._put(name, recording.snapshot)
        return result

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
                restored.fetch(recording.schedule)
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
    args, kwargs = moved((args, kwargs), net.backend.device)
    with torch.no_grad():
        return moved(net.module(*args, **kwargs), HOST)


def layer_file(name: str, place: int) -> str:
    """The file of the layer that a version added in that place."""
    return f"{place:03d}-{name}.safetensors"


class Session(ABC):
    """Versions of an edited image. Made by an editor, or by `retouch.open`.

    `undo`, `redo` and `branch` cost nothing; nothing that a version holds is ever written again. A session
    in a folder keeps every edit there as soon as it is made.
    """

    kind = "session"

    def __init__(self, store: Store, settings: dict[str, Any]) -> None:
        self.store, self.settings = store, settings
        self.versions: list[Version] = []
        self.position = -1
        self.archive: Archive | None = None
        self._next = 0

    # What a kind of session says

    @abstractmethod
    def network(self, name: str) -> Incremental:
        """The network of the snapshots of that name."""

    @abstractmethod
    def networks(self) -> dict[str, Incremental]:
        """All networks by name."""

    def pictures(self, version: Version) -> dict[str, Pixels]:
        """What a saved version shows, by file name."""
        return {PICTURE: version.pixels}

    @abstractmethod
    def sound(self, version: Version) -> bool:
        """True when a version that was read from a file has everything that this kind of session needs."""

    # State

    @property
    def version(self) -> Version:
        """The current version."""
        return self.versions[self.position]

    @property
    def pixels(self) -> Pixels:
        """The current image, uint8 `[H, W, 3]`; a copy."""
        return self.version.pixels

    @property
    def image(self) -> Image.Image:
        """The current image."""
        return Image.fromarray(self.pixels)

    def undo(self) -> Image.Image:
        """Go back to the version before; its image. UndoError at the first."""
        if self.position == 0:
            raise UndoError("nothing to undo: this is the original")
        return self._go(self.position - 1)

    def redo(self) -> Image.Image:
        """Go to the version that was undone last; its image. UndoError when there is none."""
        if self.position == len(self.versions) - 1:
            raise UndoError("nothing to redo: no edit was undone, or a new one came after it")
        return self._go(self.position + 1)

    def _go(self, position: int) -> Image.Image:
        self._commit(self.versions, position)
        self.position = position
        return self.image

    def branch(self) -> Self:
        """Another session at the current version; it shares what both have in common and is not saved yet."""
        twin: Self = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.versions = self.versions[: self.position + 1]
        twin.archive = None
        return twin

    # Making versions

    @contextmanager
    def _making(self) -> Iterator[Calls]:
        """Network calls for a new version. Unless that is put, the session stays as it was."""
        number = self._next
        folder = self.archive.staging(number) if self.archive else None
        try:
            yield Calls(self.store, self.version.snapshots if self.versions else {}, folder)
        finally:
            if self.archive and self._next == number:
                self.archive.discard(number)

    def _put(self, calls: Calls, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Make what was computed the current version, and keep it in the folder if there is one."""
        facts = {**facts, "bytes_read": calls.bytes_read}
        version = Version(self._next, calls.snapshots, tensors, facts, tuple(calls.added))
        if self.archive:
            version = self._sealed(self.archive, version)
        versions = [*self.versions[: self.position + 1], version]
        self._commit(versions, len(versions) - 1)
        self.versions, self.position = versions, len(versions) - 1
        self._next += 1

    # Folders

    @property
    def folder(self) -> Path | None:
        """Where the session is saved; None: nowhere."""
        return self.archive.path if self.archive else None

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
            self._commit(saved, self.position, archive)
        except BaseException:
            archive.abandon()
            raise
        self.close()
        self.versions, self.archive = saved, archive
        return path

    def close(self) -> None:
        """Leave the folder to others; later edits are not saved."""
        if self.archive:
            self.archive.close()
        self.archive = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _written(self, archive: Archive, version: Version) -> Version:
        """A version with its layers in files."""
        folder = archive.staging(version.number)
        for place, (name, layer) in enumerate(version.added):
            blocks.write(folder / layer_file(name, place), layer.block)
        return self._sealed(archive, version)

    def _sealed(self, archive: Archive, version: Version) -> Version:
        """A version whose layers are in files already, with the rest written too."""
        folder = archive.staged(version.number)
        blocks.write(folder / TENSORS, Block(dict(version.tensors), {}))
        for name, pixels in self.pictures(version).items():
            save_png(pixels, folder / name)
        return replace(version, files=archive.seal(version.number))

    def _commit(self, versions: Sequence[Version], position: int, archive: Archive | None = None) -> None:
        archive = archive or self.archive
        if archive is None:
            return
        entries = [
            {
                "number": version.number,
                "facts": dict(version.facts),
                "layers": [[name, layer_file(name, i)] for i, (name, _) in enumerate(version.added)],
                "files": dict(version.files),
            }
            for version in versions
        ]
        archive.commit(
            {
                "kind": self.kind,
                "settings": self.settings,
                "storage": self.store.dtype_name,
                "networks": {name: identity(net, _hashes(net, versions[0])) for name, net in self.networks().items()},
                "versions": entries,
                "current": position,
            }
        )

    def load(self, archive: Archive, manifest: dict[str, Any]) -> None:
        """Take over what a folder holds. Raises ArchiveError when it was recorded with other networks."""
        for name, net in self.networks().items():
            net.weights.refresh()
            _check_identity(name, manifest["networks"].get(name), identity(net, net.weights.hashes))
        snapshots: dict[str, Snapshot] = {}
        for entry in manifest["versions"]:
            added = [(n, self._layer(archive, entry["number"], n, file)) for n, file in entry["layers"]]
            for name, layer in added:
                snapshots = {**snapshots, name: self._grown(snapshots.get(name), name, layer)}
            tensors = blocks.read(archive.file(entry["number"], TENSORS)).tensors
            version = Version(entry["number"], snapshots, tensors, entry["facts"], tuple(added), entry["files"])
            if not self.sound(version):
                raise ArchiveError(f"version {version.number} in {archive.path} is incomplete; it cannot be trusted")
            self.versions.append(version)
        self.position = manifest["current"]
        self._next = 1 + max(version.number for version in self.versions)
        self.archive = archive

    def _layer(self, archive: Archive, number: int, name: str, file: str) -> Layer:
        return layer_of(self.network(name), blocks.read(archive.file(number, file)))

    def _grown(self, old: Snapshot | None, name: str, layer: Layer) -> Snapshot:
        net = self.network(name)
        if old is None and not layer.whole(net.plan.kept):
            raise ArchiveError(f"the session holds no whole recording of {name}; it cannot be trusted")
        layers = (*old.layers, layer) if old else (layer,)
        return Snapshot(net, self.store, layers, tuple(net.weights.hashes))

    # Reports

    def info(self) -> dict[str, Any]:
        """What the session holds: bytes stored (device, memory, files, per network call), and read by each edit."""
        return {
            "kind": self.kind,
            "folder": str(self.folder) if self.folder else None,
            "settings": dict(self.settings),
            "storage": self.store.dtype_name,
            "bytes": {
                "total": sum(version.nbytes for version in self.versions),
                "device": self.store.on_device,
                "memory": self.store.in_memory,
                "temporary_files": self.store.in_files,
                "calls": {name: snapshot.nbytes for name, snapshot in self.version.snapshots.items()},
                "keys_and_values": self._key_bytes(),
            },
            "current": self.position,
            "versions": [_report(version) for version in self.versions],
        }

    def _key_bytes(self) -> dict[str, int]:
        """Bytes of the self-attention keys and values of each call, which every edit reads whole."""
        return {
            name: sum(v.rows * v.channels * self.store.stored(v.dtype).itemsize for v in _keys(self.network(name)))
            for name in self.version.snapshots
        }


def _keys(net: Incremental) -> set[Any]:
    """Kept values that attention reads whole."""
    found = set()
    for op in net.program.ops:
        found |= {net.plan.place(v)[0] for v, how in op.operands() if how is Read.ALL}
    return found & set(net.plan.kept)


def _report(version: Version) -> dict[str, Any]:
    return {"number": version.number, "bytes": version.nbytes, **version.facts}


def identity(net: Incremental, hashes: Sequence[int]) -> dict[str, Any]:
    """What a recording depends on: the program, the hashes of the weights, the policy, the backend."""
    return {
        "program": net.digest,
        "weights": hashlib.blake2b(repr(list(hashes)).encode(), digest_size=16).hexdigest(),
        "policy": repr(net.policy),
        "backend": net.backend.name,
    }


def _hashes(net: Incremental, version: Version) -> Sequence[int]:
    """Hashes of the weights that the recordings of `net` in a version were made with."""
    return next(snapshot.hashes for snapshot in version.snapshots.values() if snapshot.net is net)


_DIFFERENT = {
    "program": "another network, or one captured by other versions of PyTorch or diffusers",
    "weights": "other weights",
    "policy": "another policy",
    "backend": 'the backend "{saved}", not "{found}": name that one, and a device that it runs on',
}


def _check_identity(name: str, saved: Any, found: dict[str, Any]) -> None:
    if not isinstance(saved, dict):
        raise ArchiveError(f"the session was recorded without a network for the {name}; record it again")
    for part, meaning in _DIFFERENT.items():
        if saved.get(part) != found[part]:
            different = meaning.format(saved=saved.get(part), found=found[part])
            raise ArchiveError(f"the session was recorded with {different} (the {name}); or record it again")
