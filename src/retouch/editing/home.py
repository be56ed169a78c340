"""Where servers keep sessions: what differs between a file system that they share (`Folders`) and a store of objects
(`bucket.py`). How they take turns is in `lease.py`, whichever it is.

In shared folders a claim on a session is a file whose name is the claim's number, which only one can make while it is
the highest. Every manifest is put in place so that a later claim wins whatever anybody believes:

1. the owner writes the new manifest under a name with its number, 2. looks whether its number is still the highest,
3. renames it over the old one; who takes over 4. makes the file of the next number, 5. removes what is named by lower
numbers, 6. reads the manifest. If 2 was before 4 then 1 was before 5: the rename comes before 6 or fails for want of
what it renames. This takes from the storage what POSIX says of link, rename and unlink, and no time. (Fencing as in
M. Kleppmann, How to do distributed locking, 2016, where the storage compares numbers; plain files cannot.)
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock, Timeout

from retouch.editing.manifest import MANIFEST, ArchiveError, Manifest

LOCK, OWNERS, SERVERS = "lock", "owners", "_servers"
"""In a session's folder: its lock on this machine, its claims; in the folder of all sessions: their servers."""
WANT = "want-"
"""Before the name of a session that others ask a server for."""
INCOMING = "incoming_"
"""What files and folders are called while a session is sent in; no owner is called so."""
ID = re.compile(r"[0-9a-f]{32}")
OWNER = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
REVISIONS = 1000
"""Contents of one version that a claim may make."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
UNDER_CLAIM = re.compile(rf"{re.escape(MANIFEST)}\.(\d+)\.new")
FOLDER = re.compile(r"\d+-(\d+)(\.part)?")


class LostError(ArchiveError):
    """A session went to another server while this one had it: what was not sealed before is not in it."""

    def __init__(self) -> None:
        super().__init__("the session went to another server; ask again")


class Home(ABC):
    """The sessions of servers, as one of them sees them.

    id: of this server. folder: on this machine, below which every session has one, `folder / owner / id`, by which it
    is named here. beat: seconds between signs of a server. light: whether new sessions are kept light.

    All methods raise OSError where the storage does not answer.
    """

    id: str
    folder: Path
    beat: ClassVar[float] = 0.5
    light: ClassVar[bool] = False

    # Servers

    @abstractmethod
    def enter(self) -> None:
        """Be one of the servers."""

    @abstractmethod
    def leave(self) -> None:
        """Be none any more; what this machine has for it is removed."""

    @abstractmethod
    def sign(self) -> None:
        """Show that this server lives."""

    @abstractmethod
    def seen(self, other: str) -> object | None:
        """What changes with every sign of a server; None where there is no such server."""

    @abstractmethod
    def is_dead(self, other: str) -> bool:
        """Whether a server was a process of this machine that has ended."""

    @abstractmethod
    def forget_dead(self) -> None:
        """Remove what is left of servers of this machine that ended."""

    @abstractmethod
    def ask(self, other: str, session: str) -> None:
        """Ask a server for a session by its id."""

    @abstractmethod
    def asked(self) -> list[str]:
        """The sessions that this server is asked for."""

    @abstractmethod
    def answered(self, session: str) -> None:
        """It was asked for no more."""

    # Claims

    @abstractmethod
    def newest(self, folder: Path) -> tuple[int, str]:
        """The number of the last claim on a session and whose it is, "" when it was released; 0 without any."""

    @abstractmethod
    def take(self, folder: Path, check: Callable[[str], None]) -> int:
        """Make the next claim on a session; its number. What was sealed is in the folder then.

        check: raises when the server that has it, or "", may not be passed over. FileNotFoundError: there is none.
        """

    @abstractmethod
    def admit(self, folder: Path, number: int, manifest: Manifest) -> None:
        """Called before a manifest is put in place: LostError when the claim of that number is the last no more."""

    @abstractmethod
    def release(self, folder: Path, number: int) -> None:
        """Let others have a session that was claimed under that number."""

    # Sessions

    @abstractmethod
    def make(self, folder: Path) -> None:
        """A session with nothing in it, unless it is there."""

    @abstractmethod
    def has(self, folder: Path) -> bool:
        """Whether there is such a session."""

    @abstractmethod
    def is_sealed(self, folder: Path) -> bool:
        """Whether it has a first version."""

    @abstractmethod
    def touched(self, folder: Path) -> float:
        """When it was sealed last, in seconds since 1970; now where it was not."""

    @abstractmethod
    def of(self, owner: str) -> list[Path]:
        """The sessions of a caller."""

    @abstractmethod
    def refresh(self, folder: Path, files: bool = False) -> None:
        """Bring the manifest in the folder, and with `files` those of versions, to what is sealed."""

    @abstractmethod
    def adopt(self, staging: Path, folder: Path) -> None:
        """Make the content of a folder from `incoming` a session, at once."""

    @abstractmethod
    def remove(self, folder: Path) -> None:
        """Delete a session."""

    @abstractmethod
    def unfinished(self, age: float) -> Iterator[Path]:
        """Sessions without a first version that were made longer ago than some seconds. What was left by others that
        sent something in is removed.
        """

    # What is sent in

    def incoming(self) -> Path:
        """A new name on this machine for what is sent in."""
        return self.folder / f"{INCOMING}{secrets.token_hex(8)}"

    @abstractmethod
    def hand_over(self, file: Path) -> str:
        """Let other servers have a file from `incoming`; the name under which they `fetch` it."""

    @abstractmethod
    def fetch(self, name: str) -> Path:
        """A file of this machine with what another server handed over, to be given to `put_down`."""

    @abstractmethod
    def put_down(self, file: Path) -> None:
        """A file from `fetch` was read."""

    @abstractmethod
    def discard(self, name: str) -> None:
        """Nobody fetches it any more."""


class Folders(Home):
    """A folder that all servers see."""

    def __init__(self, folder: Path) -> None:
        self.id, self.folder = secrets.token_hex(8), folder
        self._server = folder / SERVERS / self.id
        self._lock: FileLock | None = None

    # Servers

    def enter(self) -> None:
        """Be one of the servers."""
        self._lock = occupied(self._server)
        self.sign()

    def leave(self) -> None:
        """Be none any more."""
        if self._lock is not None:
            self._lock.release()
            shutil.rmtree(self._server, ignore_errors=True)

    def sign(self) -> None:
        """Show that this server lives."""
        self._server.mkdir(exist_ok=True)  # somebody may have removed it as dead
        file = self._server / "beat"
        file.touch()
        os.utime(file)

    def seen(self, other: str) -> int | None:
        """What changes with every sign of a server."""
        try:
            return (self.folder / SERVERS / other / "beat").stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def is_dead(self, other: str) -> bool:
        """Whether a server was a process of this machine that has ended."""
        return is_left(self.folder / SERVERS / other)

    def forget_dead(self) -> None:
        """Remove what is left of servers of this machine that ended."""
        forget_left(self.folder / SERVERS, self.id)

    def ask(self, other: str, session: str) -> None:
        """Ask a server for a session."""
        (self.folder / SERVERS / other / f"{WANT}{session}").touch()

    def asked(self) -> list[str]:
        """The sessions that this server is asked for."""
        return [name.removeprefix(WANT) for name in os.listdir(self._server) if name.startswith(WANT)]

    def answered(self, session: str) -> None:
        """It was asked for no more."""
        (self._server / f"{WANT}{session}").unlink(missing_ok=True)

    # Claims

    def newest(self, folder: Path) -> tuple[int, str]:
        """The number of the last claim on a session and whose it is."""
        while True:
            try:
                number = max((int(name) for name in os.listdir(folder / OWNERS) if name.isdecimal()), default=0)
                return number, (folder / OWNERS / str(number)).read_text("ascii") if number else ""
            except FileNotFoundError:
                if not (folder / OWNERS).is_dir():
                    return 0, ""  # else a higher one came between

    def take(self, folder: Path, check: Callable[[str], None]) -> int:
        """Make the next claim on a session."""
        owners = folder / OWNERS
        owners.mkdir(exist_ok=True)
        mine = owners / f".{self.id}.{secrets.token_hex(4)}"
        mine.write_text(self.id, "ascii")
        try:
            while True:
                number, holder = self.newest(folder)
                check(holder)
                number = 1 + (number or highest(folder))
                try:
                    os.link(mine, owners / str(number))
                except FileExistsError:
                    continue
                if self.newest(folder)[0] == number:  # else others had taken and removed it before
                    break
        finally:
            mine.unlink(missing_ok=True)
        flush(owners)
        _fence(folder, number)
        return number

    def admit(self, folder: Path, number: int, manifest: Manifest) -> None:
        """LostError when the claim is the last no more."""
        if self.newest(folder)[0] != number:
            raise LostError

    def release(self, folder: Path, number: int) -> None:
        """Let others have a session."""
        os.truncate(folder / OWNERS / str(number), 0)

    # Sessions

    def make(self, folder: Path) -> None:
        """A session with nothing in it."""
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, folder: Path) -> bool:
        """Whether there is such a session."""
        return folder.is_dir()

    def is_sealed(self, folder: Path) -> bool:
        """Whether it has a first version."""
        return (folder / MANIFEST).exists()

    def touched(self, folder: Path) -> float:
        """When it was sealed last."""
        try:
            return (folder / MANIFEST).stat().st_mtime
        except FileNotFoundError:
            return time.time()

    def of(self, owner: str) -> list[Path]:
        """The sessions of a caller."""
        return list((self.folder / owner).glob("*"))

    def refresh(self, folder: Path, files: bool = False) -> None:
        """Nothing: everybody sees the same."""

    def adopt(self, staging: Path, folder: Path) -> None:
        """Make the content of a folder a session."""
        staging.rename(folder)

    def remove(self, folder: Path) -> None:
        """Delete a session."""
        shutil.rmtree(folder, ignore_errors=True)

    def unfinished(self, age: float) -> Iterator[Path]:
        """Sessions without a first version that were made longer ago."""
        now = (self._server / "beat").stat().st_mtime  # the storage's clock, as the others are
        for left in self.folder.glob(f"{INCOMING}*"):
            if _is_older(left, now - age):
                drop(left)
        for folder in self.folder.glob("*/*"):
            ours = OWNER.fullmatch(folder.parent.name) and ID.fullmatch(folder.name)
            if ours and not self.is_sealed(folder) and _is_older(folder, now - age):
                yield folder

    # What is sent in

    def hand_over(self, file: Path) -> str:
        """Others see it where it is."""
        return str(file)

    def fetch(self, name: str) -> Path:
        """What another server handed over."""
        return Path(name)

    def put_down(self, file: Path) -> None:
        """It stays until it is discarded."""

    def discard(self, name: str) -> None:
        """Nobody fetches it any more."""
        Path(name).unlink(missing_ok=True)


def highest(folder: Path) -> int:
    """The number of the claim under which the newest version was made, of a folder that came here without it."""
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


def _is_older(path: Path, moment: float) -> bool:
    try:
        return path.stat().st_mtime < moment
    except FileNotFoundError:
        return False


def drop(path: Path) -> None:
    """Remove a file or a folder with what is in it, if it is there."""
    with suppress(FileNotFoundError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# Folders of processes


def machine() -> str:
    """This machine, as long as it runs."""
    return BOOT.read_text("ascii").strip() if BOOT.exists() else socket.gethostname()


def occupied(folder: Path) -> FileLock:
    """The lock of a new folder of this process, by which others of the machine see that it lives."""
    folder.mkdir(parents=True)
    lock = locked(folder, f"{folder} is in use")
    (folder / "about.json").write_text(json.dumps({"machine": machine(), "pid": os.getpid()}), "utf-8")
    return lock


def is_left(folder: Path) -> bool:
    """Whether a folder was `occupied` by a process of this machine that has ended: nobody holds its lock."""
    try:
        about: dict[str, Any] = json.loads((folder / "about.json").read_text("utf-8"))
        if about["machine"] != machine():
            return False
        locked(folder, "").release()
    except (OSError, ValueError, KeyError, TypeError, ArchiveError):
        return False
    return True


def forget_left(folder: Path, own: str) -> None:
    """Remove those in a folder that are left, but not one's own."""
    for each in folder.iterdir():
        if each.name != own and is_left(each):
            shutil.rmtree(each, ignore_errors=True)


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
