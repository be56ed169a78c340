"""All sessions of a server: in their home from birth, the ones used last in memory too, over one budget for all.

A session that is not used is put away when others need its memory, and opened again when somebody asks for it. Several
servers may share the home: each session is open in one of them, under a claim (`editing/lease.py`), and another one
asks for it when it needs it.
Locks are taken in one order: an entry's, the pool's; then what the sessions take.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition

from retouch.editing.archive import Progress
from retouch.editing.calls import Cancelled
from retouch.editing.canvas.canvas import Canvas
from retouch.editing.home import ID, OWNER, Home
from retouch.editing.kinds import AnySession
from retouch.editing.lease import TTL, Claim, HeldError, Holder, claimed
from retouch.editing.manifest import MANIFEST
from retouch.editing.saved import Saved
from retouch.errors import OptionError
from retouch.runtime.blocks import StoreError
from retouch.server.entry import Entry
from retouch.server.limits import Limits
from retouch.server.metrics import Metrics
from retouch.server.models import Models
from retouch.server.problems import Problem

PATIENCE = 2
"""Seconds after which a caller is told to come again when all memory is in use, or another server has the session."""
ASKING = 0.05
"""Seconds between questions whether a session can be had."""
JOBS = 1 << 24
"""Numbers of jobs under one claim. Under a later one they are higher, in whichever server: pages that have heard of
those before take no news of them for news of others. (Up to 2**29 claims they are exact in JavaScript.)
"""


class Pool:
    """The sessions in a home that servers may share. ttl: seconds, as for `Holder`."""

    def __init__(self, home: Home, models: Models, limits: Limits, metrics: Metrics, ttl: float = TTL) -> None:
        self.home, self.models, self.limits, self.metrics = home, models, limits, metrics
        self._lock = Condition()
        self._entries: dict[str, Entry] = {}
        self._closed = False
        try:
            home.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"cannot keep sessions in {home.folder}: {error.strerror or error}") from error
        metrics.backlog.set_function(self.backlog)
        self.holder = Holder(home, ttl=ttl, wanted=self._wanted, late=self._lost)
        self._clean()

    def _clean(self) -> None:
        """Remove what processes left that ended before a first version, or while a session was sent in."""
        for folder in self.home.unfinished(self.holder.ttl):
            with suppress(HeldError, FileNotFoundError):
                self.holder.claim(folder).release()
                self.home.remove(folder)

    # Which there are

    def find(self, owner: str, id_: str) -> Entry:
        """The session of that caller; Problem 404 when there is none, or it is another's."""
        folder = self.home.folder / owner / id_
        known = bool(OWNER.fullmatch(owner) and ID.fullmatch(id_)) and self.home.has(folder)
        return self._entry(owner, folder, known)

    def _entry(self, owner: str, folder: Path, known: bool) -> Entry:
        """What `find` does when it is known whether there is such a session."""
        id_ = folder.name
        touched = self.home.touched(folder) if known and id_ not in self._entries else 0.0
        with self._lock:
            entry = self._entries.get(id_)
            if entry is not None and entry.owner != owner:
                entry = None
            elif entry is None and known:
                entry = self._entries[id_] = Entry(id_, owner, folder, self.home, touched=touched)
            elif entry is not None and not known:  # another server deleted it
                entry.gone = self._entries.pop(id_) is not None
        if entry is None or entry.gone:
            raise Problem(404, "there is no such session")
        return entry

    def known(self, owner: str, id_: str) -> Entry | None:
        """The session of that caller if it is recorded, or is being recorded here."""
        with suppress(Problem):
            entry = self.find(owner, id_)
            if entry.session is not None or entry.awaited is not None or self.home.is_sealed(entry.folder):
                return entry
        return None

    def of(self, owner: str) -> list[Entry]:
        """Those of a caller, the one used last first."""
        found = []
        for folder in self.home.of(owner) if OWNER.fullmatch(owner) else ():
            with suppress(Problem):
                found.append(self._entry(owner, folder, bool(ID.fullmatch(folder.name))))
        return sorted(found, key=lambda entry: -entry.touched)

    def here(self, owner: str) -> list[Entry]:
        """Those of a caller that were asked for here."""
        with self._lock:
            return [entry for entry in self._entries.values() if entry.owner == owner]

    def jobs_of(self, owner: str) -> int:
        """How many jobs of a caller wait or run."""
        return sum(not each.job.done() for entry in self.here(owner) for each in list(entry.jobs.values()))

    def busy(self) -> bool:
        """Whether anything is computed or waits for that."""
        with self._lock:
            entries = list(self._entries.values())
        return any(not each.job.done() for entry in entries for each in list(entry.jobs.values()))

    def load(self) -> tuple[int, int]:
        """Sessions in memory and the bytes that they take."""
        with self._lock:
            held = [entry.held for entry in self._entries.values() if entry.session is not None]
        return len(held), sum(held)

    def backlog(self) -> float:
        """Predicted seconds of what waits and runs."""
        with self._lock:
            entries = list(self._entries.values())
        jobs = (each for entry in entries for each in list(entry.jobs.values()))
        return math.fsum(each.seconds for each in jobs if not each.job.done())

    # Making and removing

    def new(self, owner: str, id_: str | None = None) -> Entry:
        """A session that is not recorded yet, of that id or any; Problem 429 when the caller has too many."""
        if len(self.of(owner)) >= self.limits.sessions:
            raise Problem(429, f"you have {self.limits.sessions} sessions; delete one of them", retry_after=60)
        id_ = id_ or secrets.token_hex(16)
        folder = self.home.folder / owner / id_
        self.home.make(folder)
        with self._lock:
            entry = self._entries[id_] = Entry(id_, owner, folder, self.home)
        return entry

    def start(self, entry: Entry, begin: Callable[[Path], AnySession], light: bool = False) -> AnySession:
        """Put a new session into memory, kept `light` in its folder or whole. When that fails, or it was removed
        meanwhile, it is for the caller to `remove` it.
        """
        claim = self.claim(entry)
        claim.light = light
        if (entry.folder / MANIFEST).exists():  # a request that was sent twice, and another server was faster
            claim.release()
            raise Problem(503, "the session was made meanwhile; ask again", retry_after=1)
        with claimed(claim):
            session = begin(entry.folder)
        with entry.lock:
            entry.session, entry.awaited = session, None
            gone = entry.gone
        if gone:
            self.remove(entry)
            raise Problem(404, "the session was deleted")
        self._reserve(entry, session.recording_bytes)
        self._gauge()
        return session

    def remove(self, entry: Entry) -> None:
        """Delete a session with its folder; what is computed for it is stopped first."""
        try:
            with entry.lock:
                entry.gone = True
                session, entry.awaited, entry.session = entry.session, None, None
                if entry.opening is not None:
                    entry.opening.job.cancel()
                if session is not None:
                    session.close()
                self.home.remove(entry.folder)
        finally:  # one that the storage keeps is found again
            with self._lock:
                self._entries.pop(entry.id, None)
                entry.held = 0
                self._lock.notify_all()
            entry.hub.send(None)
            self._gauge()

    # Memory

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
            self._lock.notify_all()
        self.shrink(self.limits.memory)
        self._gauge()

    def restore(self, entry: Entry, claim: Claim, progress: Progress) -> AnySession:
        """Open a session again that was put away.

        Raises Problem 503 when all memory is in use, 507 when it needs more than there is.
        """
        with claimed(claim):
            saved = Saved.read(entry.folder)
            name = self.models.name_of(saved.manifest.settings)
            self._reserve(entry, sum(each.nbytes for each in saved.manifest.versions))
            try:
                session = saved.kind.restore(self.models.editors[name], entry.folder, progress, True)
                if saved.manifest.light:
                    self._reserve_light(entry, session)
            except BaseException:
                entry.held = 0
                raise
        wanted = entry.opening is not None  # else it was cancelled, and somebody may wait for the claim with the lock
        if wanted:
            with entry.lock:
                wanted = not (entry.gone or self._closed)
                if wanted:
                    entry.session, entry.shown = session, entry.shown or _shown(session)
        if not wanted:
            session.close()
            entry.held = 0
            raise Cancelled
        self.metrics.reopened.inc()
        self._gauge()
        return session

    def _reserve_light(self, entry: Entry, session: AnySession) -> None:
        """Count what a session takes that was recorded again: its folder does not say."""
        try:
            self._reserve(entry, session.recording_bytes)
        except BaseException:
            session.close()
            raise

    def claim(self, entry: Entry) -> Claim:
        """The right to write to a session's folder; another server that has it is asked for it.

        Raises Problem 503 when it needs that itself, 404 when it has deleted it.
        """
        end = time.monotonic() + self.limits.wait
        while True:
            try:
                claim = self.holder.claim(entry.folder)
                entry.count = max(entry.count, claim.number * JOBS)
                return claim
            except HeldError as error:
                self._ask(entry, error.holder, end)
            except FileNotFoundError as error:
                raise Problem(404, "there is no such session") from error

    def settle(self, entry: Entry) -> None:
        """Wait until the folder of a session says all that there is of it, if it is not here: another server that has
        it may have begun an edit that is not sealed, so it is asked for it. Raises Problem 503 as `claim` does.
        """
        end = time.monotonic() + self.limits.wait
        while entry.session is None and entry.opening is None and (other := self.holder.other(entry.folder)):
            self._ask(entry, other, end)

    def _ask(self, entry: Entry, other: str, end: float) -> None:
        """Ask another server for a session, and give it a moment."""
        if time.monotonic() > end:
            raise Problem(503, "another server computes for this session; come again", retry_after=PATIENCE)
        self.holder.ask(other, entry.id)
        time.sleep(ASKING)

    def _wanted(self, id_: str) -> None:
        """Another server asks for a session: it may have it when nobody needs it here."""
        with self._lock:
            entry = self._entries.get(id_)
            session = entry.session if entry is not None and entry.users == 0 else None
        if entry is None or session is None:
            return
        _settle(session)
        with self._lock:
            if entry.users == 0 and entry.session is session:
                self.lost(entry)

    def _lost(self) -> None:
        """Some time went by unseen: let go of sessions that others have taken."""
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            archive = entry.session.archive if entry.session is not None else None
            if archive is not None and archive.claim is not None and archive.claim.is_lost:
                self.lost(entry)

    def lost(self, entry: Entry) -> None:
        """Another server takes a session: what is computed for it here is stopped, pages come again."""
        with self._lock:
            if entry.session is not None:
                self._put_away(entry)
            entry.shown = None
        entry.hub.send(None)
        self._gauge()

    def _put_away(self, entry: Entry) -> None:
        assert entry.session is not None
        entry.session.close()
        entry.session, entry.estimate, entry.held = None, None, 0
        entry.jobs = {number: each for number, each in entry.jobs.items() if not each.job.over}  # they hold it, too
        if not len(entry.hub):
            entry.shown = None

    def _reserve(self, entry: Entry, nbytes: int) -> None:
        """Count bytes for a session, when others were put away for them or need them no more."""
        limit = self.limits.memory
        if nbytes > limit:
            raise Problem(507, f"the session takes {nbytes / 1e6:.0f} MB of memory; this server has {limit / 1e6:.0f}")
        end = time.monotonic() + self.limits.wait
        while True:
            self.shrink(limit - nbytes, entry)
            with self._lock:
                if self._taken(entry) + nbytes <= limit:
                    entry.held = nbytes
                    return
                if self._unused(entry) is None and not self._lock.wait(end - time.monotonic()):
                    raise Problem(
                        503, "all memory is in use by other sessions that are edited now", retry_after=PATIENCE
                    )

    def shrink(self, limit: int, but: Entry | None = None) -> None:
        """Put sessions away that nobody uses, until all take no more bytes than that.

        What they have computed goes into their folders first, while others find and use theirs.
        """
        while True:
            with self._lock:
                entry = self._unused(but) if self._taken(but) > limit else None
                session = entry.session if entry is not None else None
            if entry is None or session is None:
                return
            _settle(session)
            with self._lock:
                if entry.users == 0 and entry.session is session:
                    self._put_away(entry)
                    self.metrics.evicted.inc()
                    self._lock.notify_all()

    def _taken(self, but: Entry | None) -> int:
        """Bytes that the others take."""
        return sum(entry.held for entry in self._entries.values() if entry is not but)

    def _unused(self, but: Entry | None) -> Entry | None:
        """The session that nobody has used for longest."""
        found = [each for each in self._entries.values() if each is not but and each.held and each.session is not None]
        return min((each for each in found if each.users == 0), key=lambda each: each.touched, default=None)

    def _gauge(self) -> None:
        count, held = self.load()
        self.metrics.open_sessions.set(count)
        self.metrics.open_bytes.set(held)

    def close(self) -> None:
        """Close all sessions; their folders stay."""
        with self._lock:
            self._closed = True
            entries = list(self._entries.values())
        for entry in entries:
            if entry.awaited is not None:
                with suppress(OSError):
                    self.remove(entry)
            with entry.lock:
                if entry.opening is not None:
                    entry.opening.job.cancel()
                session, entry.session, entry.held = entry.session, None, 0
                if session is not None:
                    session.close()
        self.holder.close()


def _settle(session: AnySession) -> None:
    with suppress(StoreError):  # closing it says why
        session.settle()


def _shown(session: AnySession) -> tuple[int, None] | None:
    """What pages are shown of a session that was just opened: of a canvas the head, which each was greeted with."""
    return (session.version.number, None) if isinstance(session, Canvas) else None
