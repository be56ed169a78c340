"""Sessions that several servers share: who may write to one now, and what keeps out one who comes too late.

A server is a `Holder`. It shows that it lives by a sign that changes; others watch that change, by monotonic clocks of
their own, so no clocks of two machines are compared. Whoever opens a session takes a `Claim` on it, whose number is
higher than the last. A holder that does not live any more is passed over, and it may be wrong about that itself
(paused, or cut off), so the storage of the sessions (`home.py`) takes nothing from a claim that is not the last.

What else a late holder does is harmless, as its files have names of its own: `Claim.revision`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path

from retouch.editing.context import holding
from retouch.editing.home import FOLDER, REVISIONS, Home
from retouch.editing.manifest import MANIFEST, ArchiveError, Manifest

TTL = 10.0
"""Seconds without a sign after which a holder is passed over."""

log = logging.getLogger("retouch.lease")


class HeldError(ArchiveError):
    """Another server has the session open; `holder` is its id."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(f"another server has {folder} open ({holder})")
        self.holder = holder


class Claim:
    """The right to write to one session folder, until somebody has a higher number. light: of a new folder, how its
    archive keeps versions.
    """

    def __init__(self, holder: Holder, folder: Path, number: int) -> None:
        self.holder, self.folder, self.number = holder, folder, number
        self.light = False

    @property
    def revision(self) -> int:
        """The first revision of versions made under this claim; those of others have others."""
        return self.number * REVISIONS

    @property
    def unfinished(self) -> str:
        """The name of a manifest before it is in place."""
        return f"{MANIFEST}.{self.number}.new"

    def owns(self, name: str) -> bool:
        """Whether a version's folder was made under this claim or an older one, so that it may be removed."""
        found = FOLDER.fullmatch(name)
        return found is None or int(found[1]) < self.revision + REVISIONS

    @property
    def is_lost(self) -> bool:
        """Whether somebody took over, or the folder is gone. Where the storage does not answer nobody knows, and it
        takes nothing either.
        """
        with suppress(OSError):
            return self.holder.home.newest(self.folder)[0] != self.number
        return False

    def admit(self, manifest: Manifest) -> None:
        """LostError when it is lost; called before a manifest is put in place."""
        self.holder.home.admit(self.folder, self.number, manifest)

    def release(self) -> None:
        """Let others have the folder at once."""
        self.holder.claims.pop(self.folder, None)
        with suppress(OSError):
            self.holder.home.release(self.folder, self.number)


_claimed: ContextVar[Claim | None] = ContextVar("claimed", default=None)


@contextmanager
def claimed(claim: Claim) -> Iterator[None]:
    """Archives of the claim's folder that are opened in a block are written under it, and release it when closed; it is
    released if none was.
    """
    try:
        with holding(_claimed, claim):
            yield
    except BaseException:
        claim.release()
        raise


def claim_of(folder: Path) -> Claim | None:
    """The claim under which a folder is being opened."""
    claim = _claimed.get()
    return claim if claim is not None and claim.folder == folder else None


class Holder:
    """One server of the sessions in a home.

    ttl: seconds, see `TTL`; beat: between signs, None for what the home says. clock: monotonic seconds. wanted: told
    the name of a session folder that another server asks for; late: told after a pause of more than `ttl`, in which
    claims may have been lost. Raises ArchiveError when nothing can be written there.
    """

    def __init__(
        self,
        home: Home,
        *,
        ttl: float = TTL,
        beat: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wanted: Callable[[str], None] = lambda name: None,
        late: Callable[[], None] = lambda: None,
    ) -> None:
        self.id, self.home, self.ttl, self.clock = home.id, home, ttl, clock
        self.claims: dict[Path, Claim] = {}
        self._wanted, self._late, self._pause = wanted, late, home.beat if beat is None else beat
        self._seen: dict[str, tuple[object, float]] = {}
        self._guard = threading.Lock()
        try:
            home.enter()
        except OSError as error:
            raise ArchiveError(f"cannot keep sessions in {home.folder}: {error.strerror or error}") from error
        self._last = clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="retouch lease", daemon=True)
        self._thread.start()
        home.forget_dead()

    # Living

    def check(self) -> None:
        """Raise OSError where nothing can be written."""
        self.home.sign()

    def _beat(self) -> None:
        while not self._stop.wait(self._pause):
            try:
                self.home.sign()
                asked = self.home.asked()
            except OSError as error:
                log.warning("cannot show that this server lives: %s", error.strerror or error)
                continue
            self.look(asked)

    def look(self, asked: list[str]) -> None:
        """Whether it was away for long; let go of sessions that are asked for."""
        now = self.clock()
        late, self._last = now - self._last > self.ttl, now
        for what in [self._late] * late + [partial(self._wanted, name) for name in asked]:
            try:
                what()
            except Exception:
                log.exception("a session that others asked for could not be put away")
        for name in asked:
            with suppress(OSError):
                self.home.answered(name)

    def lives(self, other: str) -> bool:
        """Whether another holder does, as far as can be seen from here: False is a guess that claims bear."""
        try:
            sign = self.home.seen(other)
        except OSError:
            return False
        if sign is None or (other != self.id and self.home.is_dead(other)):
            return False
        now = self.clock()
        with self._guard:
            before, since = self._seen.get(other, (None, now))
            if before != sign:
                self._seen[other] = sign, now
                return True
        return now - since <= self.ttl

    def ask(self, other: str, session: str) -> None:
        """Ask another holder for a session; it lets go of it when nobody there needs it."""
        with suppress(OSError):
            self.home.ask(other, session)

    def close(self) -> None:
        """Release all claims and be gone."""
        self._stop.set()
        self._thread.join()
        for claim in list(self.claims.values()):
            claim.release()
        self.home.leave()

    # Claiming

    def other(self, folder: Path) -> str | None:
        """The other holder that lives and has a session folder, if one does."""
        holder = self.home.newest(folder)[1]
        return holder if holder not in ("", self.id) and self.lives(holder) else None

    def claim(self, folder: Path) -> Claim:
        """The next claim on a session folder. HeldError while another holder that lives has it."""

        def check(holder: str) -> None:
            if holder and self.lives(holder) and (holder != self.id or folder in self.claims):
                raise HeldError(folder, holder)

        claim = Claim(self, folder, self.home.take(folder, check))
        self.claims[folder] = claim
        return claim
