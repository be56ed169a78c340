"""Session folders that several servers share: who may write to one now, and what keeps out one who comes too late.

A server is a `Holder`. It shows that it lives by touching one file; others watch that change, by monotonic clocks of
their own, so no clocks of two machines are compared. Whoever opens a session takes a `Claim` on its folder, whose
number is one higher than the last: a file of that name, which only one can make while it is the highest. A holder that
does not live any more is passed over, and it may be wrong about that itself (paused, or cut off), so every manifest is
put in place so that a later claim wins whatever anybody believes:

1. the holder writes the new manifest under a name with its number, 2. looks whether its number is still the highest,
3. renames it over the old one; who takes over 4. makes the file of the next number, 5. removes what is named by lower
numbers, 6. reads the manifest. If 2 was before 4 then 1 was before 5: the rename comes before 6 or fails for want of
what it renames. This takes from the storage what POSIX says of link, rename and unlink, and no time. (Fencing as in
M. Kleppmann, How to do distributed locking, 2016, where the storage compares numbers; plain files cannot.)

What else a late holder does is harmless, as its files have names of its own: `Claim.revision`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from retouch.editing.context import holding
from retouch.editing.manifest import MANIFEST, ArchiveError

LOCK, OWNERS, SERVERS = "lock", "owners", "_servers"
"""In a session's folder: its lock on this machine, its claims; in the folder of all sessions: their servers."""
WANT = "want-"
"""In a server's folder, before the name of a session that others ask for."""
TTL, BEAT = 10.0, 0.5
"""Seconds without a sign after which a holder is passed over, and between signs."""
REVISIONS = 1000
"""Contents of one version that a claim may make."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
UNDER_CLAIM = re.compile(rf"{re.escape(MANIFEST)}\.(\d+)\.new")
FOLDER = re.compile(r"\d+-(\d+)(\.part)?")

log = logging.getLogger("retouch.lease")


class LostError(ArchiveError):
    """A session went to another server while this one had it: what was not sealed before is not in it."""


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
        """Whether somebody took over, or the folder is gone."""
        return _newest(self.folder)[0] != self.number

    def check(self) -> None:
        """LostError when it is lost."""
        if self.is_lost:
            raise LostError("the session went to another server; ask again")

    def release(self) -> None:
        """Let others have the folder at once."""
        self.holder.claims.pop(self.folder, None)
        with suppress(OSError):
            os.truncate(self.folder / OWNERS / str(self.number), 0)


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
    """One server of the sessions below a folder.

    ttl: seconds, see `TTL`. clock: monotonic seconds. wanted: told the name of a session folder that another server
    asks for; late: told after a pause of more than `ttl`, in which claims may have been lost. Raises ArchiveError when
    nothing can be written there.
    """

    def __init__(
        self,
        home: Path,
        *,
        ttl: float = TTL,
        beat: float = BEAT,
        clock: Callable[[], float] = time.monotonic,
        wanted: Callable[[str], None] = lambda name: None,
        late: Callable[[], None] = lambda: None,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.home, self.ttl, self.clock = home, ttl, clock
        self.claims: dict[Path, Claim] = {}
        self._wanted, self._late, self._pause = wanted, late, beat
        self._seen: dict[str, tuple[int, float]] = {}
        self._guard = threading.Lock()
        self._folder = home / SERVERS / self.id
        try:
            self._folder.mkdir(parents=True)
            self._lock = locked(self._folder, f"{self._folder} is in use")
            (self._folder / "about.json").write_text(json.dumps({"machine": machine(), "pid": os.getpid()}), "utf-8")
            self._sign()
        except OSError as error:
            raise ArchiveError(f"cannot keep sessions in {home}: {error.strerror or error}") from error
        self._last = clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="retouch lease", daemon=True)
        self._thread.start()
        self._forget_dead()

    # Living

    def check(self) -> None:
        """Raise OSError where nothing can be written."""
        self._sign()

    def _sign(self) -> None:
        file = self._folder / "beat"
        file.touch()
        os.utime(file)

    def _beat(self) -> None:
        while not self._stop.wait(self._pause):
            try:
                self._sign()
                names = os.listdir(self._folder)
            except OSError as error:  # the storage is away, or somebody removed us as dead
                log.warning("cannot show that this server lives: %s", error.strerror)
                with suppress(OSError):
                    self._folder.mkdir(parents=True, exist_ok=True)
                continue
            self.look(names)

    def look(self, names: list[str]) -> None:
        """Whether it was away for long, and which sessions are asked for."""
        now = self.clock()
        late, self._last = now - self._last > self.ttl, now
        asked = [name for name in names if name.startswith(WANT)]
        for what in [self._late] * late + [partial(self._wanted, name.removeprefix(WANT)) for name in asked]:
            try:
                what()
            except Exception:
                log.exception("a session that others asked for could not be put away")
        for name in asked:
            (self._folder / name).unlink(missing_ok=True)

    def lives(self, other: str) -> bool:
        """Whether another holder does, as far as can be seen from here: False is a guess that claims bear."""
        folder = self.home / SERVERS / other
        try:
            sign = (folder / "beat").stat().st_mtime_ns
        except OSError:
            return False
        if other != self.id and _is_dead(folder):
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
            (self.home / SERVERS / other / f"{WANT}{session}").touch()

    def _forget_dead(self) -> None:
        """Remove what is left of holders of this machine that ended."""
        for folder in (self.home / SERVERS).iterdir():
            if folder.name != self.id and _is_dead(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Release all claims and be gone."""
        self._stop.set()
        self._thread.join()
        for claim in list(self.claims.values()):
            claim.release()
        self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)

    # Claiming

    def other(self, folder: Path) -> str | None:
        """The other holder that lives and has a session folder, if one does."""
        holder = _newest(folder)[1]
        return holder if holder not in ("", self.id) and self.lives(holder) else None

    def claim(self, folder: Path) -> Claim:
        """The next claim on a session folder. HeldError while another holder that lives has it."""
        owners = folder / OWNERS
        owners.mkdir(exist_ok=True)
        mine = owners / f".{self.id}.{secrets.token_hex(4)}"
        mine.write_text(self.id, "ascii")
        try:
            while True:
                number, holder = _newest(folder)
                if holder and self.lives(holder) and (holder != self.id or folder in self.claims):
                    raise HeldError(folder, holder)
                number = 1 + (number or _highest(folder))
                try:
                    os.link(mine, owners / str(number))
                except FileExistsError:
                    continue
                if _newest(folder)[0] == number:  # else others had taken and removed it before
                    break
        finally:
            mine.unlink(missing_ok=True)
        flush(owners)
        _fence(folder, number)
        claim = Claim(self, folder, number)
        self.claims[folder] = claim
        return claim


def _newest(folder: Path) -> tuple[int, str]:
    """The highest number of a folder's claims and who made it, "" when it was released; 0 where there is none."""
    while True:
        try:
            number = max((int(name) for name in os.listdir(folder / OWNERS) if name.isdecimal()), default=0)
            return number, (folder / OWNERS / str(number)).read_text("ascii") if number else ""
        except FileNotFoundError:
            if not (folder / OWNERS).is_dir():
                return 0, ""  # else a higher one came between


def _highest(folder: Path) -> int:
    """The number of the claim under which the newest version was made, of a folder that was copied here without it."""
    try:
        found = [FOLDER.fullmatch(name) for name in os.listdir(folder / "versions")]
    except FileNotFoundError:
        return 0
    return max((int(each[1]) // REVISIONS for each in found if each), default=0)


def _fence(folder: Path, number: int) -> None:
    """Take from those with lower numbers what they are about to put in place."""
    for name in os.listdir(folder):
        found = UNDER_CLAIM.fullmatch(name)
        if found and int(found[1]) < number:
            (folder / name).unlink(missing_ok=True)
    for name in os.listdir(folder / OWNERS):
        if name.isdecimal() and int(name) < number:
            (folder / OWNERS / name).unlink(missing_ok=True)


def machine() -> str:
    """This machine, as long as it runs."""
    return BOOT.read_text("ascii").strip() if BOOT.exists() else socket.gethostname()


def _is_dead(folder: Path) -> bool:
    """Whether a holder was a process of this machine that has ended: nobody holds its lock."""
    try:
        about: dict[str, Any] = json.loads((folder / "about.json").read_text("utf-8"))
        if about["machine"] != machine():
            return False
        locked(folder, "").release()
    except (OSError, ValueError, KeyError, TypeError, ArchiveError):
        return False
    return True


def locked(path: Path, in_use: str) -> FileLock:
    """The folder's lock, held by any thread of this process; ArchiveError that says `in_use` when another holds it."""
    lock = FileLock(path / LOCK, mode=0o600, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ArchiveError(in_use) from error
    except OSError as error:
        raise ArchiveError(f"cannot open the folder {path}: {error.strerror or error}") from error
    return lock


def flush(folder: Path) -> None:
    """Make renames in a folder last, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
