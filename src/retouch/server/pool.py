"""All sessions of a server: in folders from birth, the ones used last in memory too, over one budget for all.

A session that is not used is put away when others need its memory, and opened again when somebody asks for it.
Locks are taken in one order: an entry's, the pool's; then what the sessions take.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition

from retouch.editing.archive import locked, silent
from retouch.editing.canvas.canvas import Canvas
from retouch.editing.kinds import AnySession, Saved
from retouch.editing.manifest import MANIFEST
from retouch.errors import OptionError
from retouch.server.entry import Entry
from retouch.server.limits import Limits
from retouch.server.metrics import Metrics
from retouch.server.models import Models
from retouch.server.problems import Problem

ID = re.compile(r"[0-9a-f]{32}")
OWNER = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
INCOMING = "incoming_"
"""What folders are called while a session is sent in; no owner is called so."""
PATIENCE = 2
"""Seconds after which a caller is told to come again when all memory is in use."""


class Pool:
    """The sessions in a folder of the server's own."""

    def __init__(self, home: Path, models: Models, limits: Limits, metrics: Metrics) -> None:
        self.home, self.models, self.limits, self.metrics = home, models, limits, metrics
        self._lock = Condition()
        self._entries: dict[str, Entry] = {}
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"cannot keep sessions in {home}: {error.strerror or error}") from error
        self._home_lock = locked(
            home, f"another server uses the sessions in {home}; stop it, or name another with --home"
        )
        for stale in home.glob(f"{INCOMING}*"):
            shutil.rmtree(stale)
        for folder in sorted(home.glob("*/*")):
            if OWNER.fullmatch(folder.parent.name) and ID.fullmatch(folder.name):
                if (folder / MANIFEST).exists():
                    touched = (folder / MANIFEST).stat().st_mtime
                    self._entries[folder.name] = Entry(folder.name, folder.parent.name, folder, touched=touched)
                else:
                    shutil.rmtree(folder)  # of a process that ended before the first version

    # Which there are

    def find(self, owner: str, id_: str) -> Entry:
        """The session of that caller; Problem 404 when there is none, or it is another's."""
        with self._lock:
            entry = self._entries.get(id_)
        if entry is None or entry.owner != owner or entry.gone:
            raise Problem(404, "there is no such session")
        return entry

    def of(self, owner: str) -> list[Entry]:
        """Those of a caller, the one used last first."""
        with self._lock:
            found = [entry for entry in self._entries.values() if entry.owner == owner]
        return sorted(found, key=lambda entry: -entry.touched)

    def jobs_of(self, owner: str) -> int:
        """How many jobs of a caller wait or run."""
        return sum(not job.done() for entry in self.of(owner) for job in list(entry.jobs.values()))

    def busy(self) -> bool:
        """Whether anything is computed or waits for that."""
        with self._lock:
            entries = list(self._entries.values())
        return any(not job.done() for entry in entries for job in list(entry.jobs.values()))

    # Making and removing

    def new(self, owner: str) -> Entry:
        """A session that is not recorded yet; Problem 429 when the caller has too many."""
        with self._lock:
            if len(self.of(owner)) >= self.limits.sessions:
                raise Problem(429, f"you have {self.limits.sessions} sessions; delete one of them", retry_after=60)
            id_ = secrets.token_hex(16)
            entry = Entry(id_, owner, self.home / owner / id_)
            self._entries[id_] = entry
        return entry

    def start(self, entry: Entry, begin: Callable[[Path], AnySession]) -> AnySession:
        """Put a new session into memory; nothing of it is left when that fails."""
        try:
            entry.folder.parent.mkdir(parents=True, exist_ok=True)
            session = begin(entry.folder)
            entry.session = session
            entry.shown = _shown(session)
            self._reserve(entry, session.recording_bytes)
        except BaseException:
            self.remove(entry)
            raise
        self._gauge()
        return session

    def remove(self, entry: Entry) -> None:
        """Delete a session with its folder; what is computed for it is stopped first."""
        with entry.lock:
            entry.gone = True
            session, entry.session = entry.session, None
            if session is not None:
                session.close()
            shutil.rmtree(entry.folder, ignore_errors=True)
        with self._lock:
            self._entries.pop(entry.id, None)
            entry.held = 0
            self._lock.notify_all()
        entry.hub.send(None)
        self._gauge()

    # Memory

    @contextmanager
    def using(self, entry: Entry) -> Iterator[AnySession]:
        """The session in memory, opened again if it was put away, and kept there in a block.

        Raises Problem 404 when it was deleted, 503 when all memory is in use, 507 when it needs more than there is.
        """
        with self.kept(entry):
            yield self._opened(entry)

    @contextmanager
    def kept(self, entry: Entry) -> Iterator[None]:
        """Do not put a session away in a block."""
        self.keep(entry)
        try:
            yield
        finally:
            self.release(entry)

    def keep(self, entry: Entry) -> None:
        """Do not put a session away until it is released."""
        with self._lock:
            entry.users += 1
            entry.touched = time.time()

    def release(self, entry: Entry) -> None:
        """Let it be put away if nobody else keeps it; what it takes is counted anew."""
        with self._lock:
            entry.users -= 1
            session = entry.session
            if session is not None and session.versions:
                entry.held = session.held_bytes
            self._shrink(self.limits.memory)
            self._lock.notify_all()
        self._gauge()

    def _opened(self, entry: Entry) -> AnySession:
        with entry.lock:
            if entry.gone:
                raise Problem(404, "there is no such session")
            if entry.session is None:
                saved = Saved.read(entry.folder)
                name = self.models.name_of(saved.manifest.settings)
                self._reserve(entry, sum(each.nbytes for each in saved.manifest.versions))
                try:
                    entry.session = saved.kind.restore(self.models.editors[name], entry.folder, silent, True)
                    entry.shown = entry.shown or _shown(entry.session)
                except BaseException:
                    entry.held = 0
                    raise
                self.metrics.reopened.inc()
                self._gauge()
            return entry.session

    def _reserve(self, entry: Entry, nbytes: int) -> None:
        """Count bytes for a session, when others were put away for them or need them no more."""
        limit = self.limits.memory
        if nbytes > limit:
            raise Problem(507, f"the session takes {nbytes / 1e6:.0f} MB of memory; this server has {limit / 1e6:.0f}")
        with self._lock:
            free = self._lock.wait_for(lambda: self._shrink(limit - nbytes, entry) + nbytes <= limit, self.limits.wait)
            if not free:
                raise Problem(503, "all memory is in use by other sessions that are edited now", retry_after=PATIENCE)
            entry.held = nbytes

    def _shrink(self, limit: int, but: Entry | None = None) -> int:
        """Put sessions away, the ones used longest ago first, until they take no more than that; what they take."""
        held = [entry for entry in self._entries.values() if entry.held and entry is not but]
        taken = sum(entry.held for entry in held)
        for entry in sorted(held, key=lambda each: each.touched):
            if taken <= limit:
                break
            if entry.users == 0 and entry.session is not None:
                entry.session.close()
                taken -= entry.held
                entry.session, entry.estimate, entry.held = None, None, 0
                entry.jobs = {number: job for number, job in entry.jobs.items() if not job.over}  # they hold it, too
                if not len(entry.hub):
                    entry.shown = None
                self.metrics.evicted.inc()
        return taken

    def _gauge(self) -> None:
        with self._lock:
            held = [entry.held for entry in self._entries.values() if entry.session is not None]
        self.metrics.open_sessions.set(len(held))
        self.metrics.open_bytes.set(sum(held))

    def close(self) -> None:
        """Close all sessions; their folders stay."""
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            with entry.lock:
                session, entry.session, entry.held = entry.session, None, 0
                if session is not None:
                    session.close()
        self._home_lock.release()


def _shown(session: AnySession) -> tuple[int, None] | None:
    """What pages are shown of a session that was just opened: of a canvas the head, which each was greeted with."""
    return (session.version.number, None) if isinstance(session, Canvas) else None
