"""What all editors share: where recordings are kept, and sessions in folders."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

from retouch.editing.archive import Archive, Progress, silent
from retouch.editing.fields import wrong
from retouch.editing.images import full_box
from retouch.editing.jobs import Job, Task
from retouch.editing.manifest import ArchiveError, Manifest
from retouch.editing.session import Session
from retouch.errors import RetouchError
from retouch.kernels.registry import backend, described, preferred
from retouch.passes import checked_arithmetic
from retouch.runtime.store import Store

S = TypeVar("S", bound=Session)


class BaseEditor(ABC, Generic[S]):
    """Opens sessions of one kind with one model.

    name: how the model is named in saved sessions, so that `retouch.open` finds it again.
    backend: kernels, as for `retouch.compile`.
    memory: bytes that the recordings of a session may take before they go to files; None: 40 % of what is
        free. folder: where those files are; None: a folder for temporary files.
    device_memory: bytes of the device's memory that they may take before they go to the host's; None: 40 % of
        what is free there. Of no account on the CPU.
    history: bytes that the layers of a session's edits may take, in memory or in files without a name; beyond that the
        oldest are dropped, and made again when an edit goes on from them. None: 40 % of the memory that is free.
    keep_module: as for `retouch.compile`; False leaves the weights in memory once, and writes them to files when the
        editor is first used.
    arithmetic: as for `retouch.compile`: "float", or "int8", which is faster and less exact.
    map_weights: as for `retouch.compile`: True maps packed weights from files that all processes share.
    storage: how recorded float32 rows are kept: "fp32", "bf16" or "fp16"; "int8" with a scale for each row, which takes
        those of 16-bit networks, too; "auto": int8 where the error that it makes is measured to be small, else bf16.
    """

    sessions: type[S]

    def __init__(
        self,
        name: str | None,
        backend: str,
        memory: int | None,
        device_memory: int | None,
        folder: str | Path | None,
        storage: str,
        history: int | None = None,
        keep_module: bool = True,
        arithmetic: str = "float",
        map_weights: bool = False,
    ) -> None:
        self.name, self.backend, self.storage = name, backend, storage
        self.memory, self.device_memory, self.history = memory, device_memory, history
        self.map_weights = map_weights
        self.keep_module, self.arithmetic = keep_module, checked_arithmetic(arithmetic)
        self.folder = None if folder is None else Path(folder)
        self._shared: Store | None = None
        self._store()  # refuses what is wrong now, not after the model has run

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the networks are, and so where edits are computed."""

    @property
    def kernels(self) -> str:
        """Which kernels compute, where, and whether "auto" would take them."""
        name = preferred(self.device) if self.backend == "auto" else self.backend
        return described(backend(name, self.device))

    @property
    def arithmetic_facts(self) -> dict[str, str]:
        """What manifests say of the arithmetic: nothing of "float"."""
        return {} if self.arithmetic == "float" else {"arithmetic": self.arithmetic}

    def restore(self, path: str | Path, progress: Progress = silent, wait: bool = True) -> S:
        """Open a saved session; see `retouch.open`."""
        archive, manifest = Archive.open(Path(path))
        try:
            check_saved(self.sessions, Path(path), manifest)
            archive.verify(manifest.versions, progress)
            session = self._loaded(archive, manifest, progress)
            archive.clean(manifest.folders)
            return self._opened(session, partial(session.ready, progress), wait, {})
        except BaseException:
            archive.close()
            raise

    def _loaded(self, archive: Archive, manifest: Manifest, progress: Progress) -> S:
        """The session in a folder whose files are as the manifest says."""
        try:
            session = self._restored(archive, manifest, progress)
            session.load(archive, manifest)
        except ArchiveError:
            raise
        except RetouchError as error:
            raise ArchiveError(f"the session in {archive.path} does not fit this editor: {error}") from error
        return session

    @abstractmethod
    def _restored(self, archive: Archive, manifest: Manifest, progress: Progress) -> S:
        """A session without versions that is set up as a manifest says; RetouchError when that cannot be. `progress` is
        told of networks that are compiled for it.
        """

    def sharing(self, store: Store) -> Self:
        """The same editor, but that all its sessions keep their recordings in one store."""
        twin = copy.copy(self)
        twin._shared = store
        return twin

    def _store(self, storage: str | None = None) -> Store:
        if self._shared is not None:
            return self._shared
        return Store(self.memory, self.folder, storage or self.storage, self.device_memory, self.device, self.history)

    def _recorded(
        self,
        session: S,
        folder: str | Path | None,
        record: Callable[[], None],
        wait: bool,
        awaited: Mapping[str, Tensor],
    ) -> S:
        """The session after `record`, in `folder` if one is named; nothing is left there when that fails.

        Unless it should `wait`, a job of the session records; `awaited` are tensors of its first version.
        """
        if folder is not None:
            session.archive = Archive.create(Path(folder))
        try:
            return self._opened(session, record, wait, awaited)
        except BaseException:
            if session.archive is not None:
                session.archive.abandon()
            raise

    def _opened(self, session: S, record: Callable[[], None], wait: bool, awaited: Mapping[str, Tensor]) -> S:
        """The session after `record`, which a job of it does unless it should `wait`."""
        if wait:
            record()
            return _prepared(session)
        session.awaited = awaited
        opening = Opening(session, record, session.archive)
        session.opening = session.start(opening)
        session.opening.add_done_callback(lambda job: opening.abandon() if job.cancelled() else None)
        return session


@dataclass(eq=False)
class Opening(Task[S]):
    """Records the first version of a session, in `archive` if it has one."""

    can_wait = True

    session: S
    record: Callable[[], None]
    archive: Archive | None

    def run(self, job: Job[S]) -> S:
        """Record it; the session. The frame is the whole picture."""
        try:
            self.record()
        except BaseException:
            self.abandon()
            raise
        self.session.awaited = {}
        pixels = self.session.pixels
        job.show("result", self.session.version.number, full_box(pixels), pixels, (1, 1))
        return _prepared(self.session)

    def abandon(self) -> None:
        """Close the session, and its folder as if it had never been one."""
        archive, self.archive = self.archive, None
        if archive is not None:
            archive.abandon()
        self.session.close()


def check_saved(sessions: type[Session], path: Path, manifest: Manifest) -> None:
    """ArchiveError unless a manifest is one of such sessions."""
    if manifest.kind != sessions.kind:
        raise ArchiveError(f"{path} holds a session of the kind {manifest.kind!r}, not {sessions.kind!r}")
    bad = wrong(manifest.settings, sessions.saved_settings)
    bad += [name for entry in manifest.versions for name in wrong(entry.facts, sessions.saved_facts)]
    if bad:
        raise ArchiveError(f"the manifest in {path} is damaged: no session has such {', '.join(dict.fromkeys(bad))}")


def _prepared(session: S) -> S:
    """A session whose first edit will not be slower than the others, if memory allows."""
    nets = list(session.networks().values())
    for net in nets:
        net.backend.release()  # of recordings that went to files: edits touch few rows of theirs
    on_device = any(net.backend.transfers for net in nets)
    if session.store.fits(sum(net.plan.kept_bytes for net in nets), on_device=on_device):
        for net in nets:
            with net.lock:
                net.workspace.touch()
        snapshots = reversed([*session.version.snapshots.items()])
        first = {session.network(name): snapshot for name, snapshot in snapshots}
        for net, snapshot in first.items():
            net.prepare(snapshot.recording())
    return session
