"""Sessions in a store of objects, which knows neither locks nor renames, but lets one of many create an object.

Each session has a log: objects with numbers, each of which says all that is sealed: whose the session is, under which
claim, and its manifest. The one with the highest number counts. Whatever changes a session, a claim or an edit, is the
next number, which only one can create: so an owner that wakes up late, when another has gone on, finds its number taken
and has changed nothing, however long anything took. Lower numbers are removed. Should the number be free again by then,
the late owner sees a higher one beside it, or that the one before it is gone, and its edit does not count. Of a session
that was deleted the highest number says so, for a day.

Files of versions are named by their content, and sent before what names them is sealed. A folder of this machine holds
them while it works with a session, as if that were the session's.
"""

from __future__ import annotations

import json
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import platformdirs

from retouch.editing.archive import version_folder
from retouch.editing.home import ID, WANT, Home, LostError, forget_left, highest, is_left, machine, occupied
from retouch.editing.manifest import MANIFEST, ArchiveError, Manifest
from retouch.editing.recent import Recent
from retouch.editing.store import Store

LOG, FILES, SERVERS, GIVEN = "log", "files", "servers", "incoming"
"""Folders of the store."""
GONE = 10
"""Bytes of the number that says that a session was deleted: when, in seconds since 1970."""
SMALL = 256
"""No number with a manifest has fewer bytes."""
DAY = 24 * 3600
"""Seconds for which it is known that a session was deleted, and after which what was begun and left is removed."""
COPIES = 256
"""Sessions of which something is kept on this machine though it does not have them."""


@dataclass(frozen=True)
class Seal:
    """What a number of a log says. claim: the number with which the last claim came. holder: whose it is, "" when it
    was released. at: when a manifest came last, in seconds since 1970. manifest: its text; None before a first version.
    """

    claim: int = 0
    holder: str = ""
    at: float = field(default_factory=time.time)
    manifest: str | None = None

    def data(self) -> bytes:
        """What the object holds."""
        return json.dumps(asdict(self)).encode()


@dataclass
class Held:
    """A session that this server has: the last number that it knows, what it sealed last, and the files that are
    there. brought: set once the folder has them.
    """

    number: int
    seal: Seal
    files: set[str] = field(default_factory=set)
    brought: threading.Event = field(default_factory=threading.Event)


class Bucket(Home):
    """Objects below a URL. scratch: a folder of this machine for what is worked with. Raises as `Store` does."""

    beat = 2.0
    light = True

    def __init__(self, where: str, scratch: Path | None = None) -> None:
        self.id, self._store = secrets.token_hex(8), Store(where)
        self._place = (scratch or platformdirs.user_cache_path("retouch") / "sessions") / machine()
        self._own = self._place / self.id
        self._lock = occupied(self._own)
        self.folder = self._own / "sessions"
        self.folder.mkdir()
        self._signs = 0
        self._guard = threading.RLock()
        self._held: dict[Path, Held] = {}
        self._seals: Recent[tuple[Path, int], Seal] = Recent(COPIES)
        self._copies: OrderedDict[Path, None] = OrderedDict()

    # Servers

    def enter(self) -> None:
        """Be one of the servers."""
        self.sign()

    def leave(self) -> None:
        """Be none any more."""
        with suppress(OSError):
            self._drop_all(f"{SERVERS}/{self.id}")
        self._lock.release()
        shutil.rmtree(self._own, ignore_errors=True)

    def sign(self) -> None:
        """Show that this server lives."""
        self._signs += 1
        self._store.write(f"{SERVERS}/{self.id}/beat", str(self._signs).encode())

    def seen(self, other: str) -> bytes | None:
        """What changes with every sign of a server."""
        try:
            return self._store.read(f"{SERVERS}/{other}/beat")
        except FileNotFoundError:
            return None

    def is_dead(self, other: str) -> bool:
        """Whether a server was a process of this machine that has ended."""
        return is_left(self._place / other)

    def forget_dead(self) -> None:
        """Remove what is left of servers of this machine that ended."""
        for each in self._place.iterdir():
            if each.name != self.id and is_left(each):
                self._drop_all(f"{SERVERS}/{each.name}")
        forget_left(self._place, self.id)

    def ask(self, other: str, session: str) -> None:
        """Ask a server for a session."""
        self._store.write(f"{SERVERS}/{other}/{WANT}{session}", b"")

    def asked(self) -> list[str]:
        """The sessions that this server is asked for."""
        names = self._store.names(f"{SERVERS}/{self.id}")
        return [name.removeprefix(WANT) for name in names if name.startswith(WANT)]

    def answered(self, session: str) -> None:
        """It was asked for no more."""
        self._store.drop([f"{SERVERS}/{self.id}/{WANT}{session}"])

    def _drop_all(self, folder: str) -> None:
        self._store.drop(f"{folder}/{name}" for name in self._store.names(folder))

    # Logs

    def _logs(self, owner: str) -> dict[str, dict[int, int]]:
        """Of the sessions of a caller by id, the numbers of their logs and the bytes of each."""
        found: dict[str, dict[int, int]] = {}
        for name, size in self._store.names(f"{LOG}/{owner}").items():
            id_, _, number = name.partition(".")
            if ID.fullmatch(id_) and number.isdecimal():
                found.setdefault(id_, {})[int(number)] = size
        return found

    def _numbers(self, folder: Path) -> dict[int, int]:
        return self._logs(folder.parent.name).get(folder.name, {})

    def _last(self, folder: Path) -> tuple[int, Seal | None]:
        """The highest number of a session's log and what it says, None of one that was deleted; 0 where none is."""
        while True:
            numbers = self._numbers(folder)
            number = max(numbers, default=0)
            if not _is_there(numbers):
                return number, None
            seal = self._seals.known((folder, number))
            if seal is None:
                try:
                    seal = Seal(**json.loads(self._store.read(_named(folder, number))))
                except FileNotFoundError:
                    continue  # a higher one came between
                self._remember(folder, number, seal)
            return number, seal

    def _remember(self, folder: Path, number: int, seal: Seal) -> None:
        self._seals.get((folder, number), lambda: seal)

    def _append(self, folder: Path, number: int, data: bytes) -> bool:
        """Create a number of a log and remove the lower ones; False when it is not the highest then. LostError when the
        one below is gone.
        """
        if not self._store.create(_named(folder, number), data):
            return False
        numbers = self._numbers(folder)
        if max(numbers, default=0) != number:
            return False
        if number > 1 and number - 1 not in numbers:
            self._store.drop([_named(folder, number)])
            raise LostError
        with suppress(OSError):  # whoever comes next does it
            self._store.drop(_named(folder, each) for each in numbers if each < number)
        return True

    # Claims

    def newest(self, folder: Path) -> tuple[int, str]:
        """The number of the last claim on a session and whose it is."""
        seal = self._last(folder)[1]
        return (seal.claim, seal.holder) if seal else (0, "")

    def take(self, folder: Path, check: Callable[[str], None]) -> int:
        """Make the next claim on a session."""
        while True:
            number, last = self._last(folder)
            if last is None:
                raise FileNotFoundError(f"there is no session {folder.name}")
            check(last.holder)
            claim = number + 1
            seal = replace(last, claim=claim, holder=self.id)
            if self._append(folder, claim, seal.data()):
                break
        with self._guard:
            self._held[folder] = held = Held(claim, seal)
        try:
            self._bring(folder, seal, True, own=True)
            held.files = self._tidied(folder)
        except BaseException:
            self.release(folder, claim)
            raise
        finally:
            held.brought.set()
        return claim

    def admit(self, folder: Path, number: int, manifest: Manifest) -> None:
        """Seal it; LostError when the claim is the last no more."""
        held = self._held.get(folder)
        if held is None or held.seal.claim != number:
            raise LostError
        files = _files(folder, manifest)
        self._store.send((file, name) for file, name in files.items() if name not in held.files)
        self._seal(folder, held, replace(held.seal, at=time.time(), manifest=manifest.portable().text()))
        there, held.files = held.files, set(files.values())
        with suppress(OSError):  # the next claim does it
            self._store.drop(there - held.files)

    def _seal(self, folder: Path, held: Held, seal: Seal) -> None:
        """The next number of a log, under a claim."""
        while not self._append(folder, held.number + 1, seal.data()):
            number, last = self._last(folder)
            if last is None or (last.claim, last.holder) != (seal.claim, self.id):
                raise LostError
            held.number = number  # it was sent before, and no answer came
        held.number, held.seal = held.number + 1, seal
        self._remember(folder, held.number, seal)

    def release(self, folder: Path, number: int) -> None:
        """Let others have a session."""
        with self._guard:
            held = self._held.get(folder)
            if held is None or held.seal.claim != number:
                return
            del self._held[folder]
        try:
            with suppress(LostError):
                self._seal(folder, held, replace(held.seal, holder=""))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _tidied(self, folder: Path) -> set[str]:
        """The files that a session's manifest names; others are removed."""
        at = _kept(folder)
        there = {f"{at}/{name}" for name in self._store.names(at)}
        try:
            wanted = set(_files(folder, Manifest.read(folder)).values()) if (folder / MANIFEST).exists() else set()
        except ArchiveError:  # of a newer version of this package
            return there
        self._store.drop(there - wanted)
        return there & wanted

    # Sessions

    def make(self, folder: Path) -> None:
        """A session with nothing in it."""
        number, last = self._last(folder)
        if last is None:
            self._append(folder, number + 1, Seal().data())

    def has(self, folder: Path) -> bool:
        """Whether there is such a session."""
        return _is_there(self._numbers(folder))

    def is_sealed(self, folder: Path) -> bool:
        """Whether it has a first version."""
        seal = self._last(folder)[1]
        return seal is not None and seal.manifest is not None

    def touched(self, folder: Path) -> float:
        """When it was sealed last."""
        seal = self._last(folder)[1]
        return seal.at if seal else time.time()

    def of(self, owner: str) -> list[Path]:
        """The sessions of a caller."""
        return [self.folder / owner / id_ for id_, numbers in self._logs(owner).items() if _is_there(numbers)]

    def refresh(self, folder: Path, files: bool = False) -> None:
        """Bring the folder to what is sealed; of a session that this server has, wait until it is."""
        while True:
            held = self._held.get(folder)
            if held is not None:
                held.brought.wait()
                if self._held.get(folder) is held:
                    return
                continue
            number, seal = self._last(folder)
            if seal is None or seal.manifest is None:
                shutil.rmtree(folder, ignore_errors=True)
                return
            try:
                self._bring(folder, seal, files)
            except FileNotFoundError:
                if self._last(folder)[0] != number:
                    continue
            self._keep(folder)
            return

    def _bring(self, folder: Path, seal: Seal, files: bool, own: bool = False) -> None:
        """The manifest, and with `files` those that it names, into the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        if seal.manifest is None:
            return
        with self._guard:
            if own or folder not in self._held:
                part = folder / f"{MANIFEST}.{secrets.token_hex(4)}"
                part.write_text(seal.manifest, "utf-8")
                part.replace(folder / MANIFEST)
        if files:
            with suppress(ArchiveError):  # of a newer version of this package: who opens it says so
                wanted = _files(folder, Manifest.read(folder))
                self._store.fetch((name, file) for file, name in wanted.items() if not file.exists())

    def _keep(self, folder: Path) -> None:
        """Have no more copies than `COPIES`."""
        with self._guard:
            self._copies[folder] = None
            self._copies.move_to_end(folder)
            while len(self._copies) > COPIES:
                old, _ = self._copies.popitem(last=False)
                if old not in self._held:
                    shutil.rmtree(old, ignore_errors=True)

    def adopt(self, staging: Path, folder: Path) -> None:
        """Make the content of a folder a session."""
        manifest = Manifest.read(staging)
        files = {staging / file.relative_to(folder): name for file, name in _files(folder, manifest).items()}
        self._store.send(files.items())
        number = 1 + max(self._last(folder)[0], highest(staging))
        self._store.create(_named(folder, number - 1), Seal().data())  # so that claims go on from there
        self._append(folder, number, Seal(manifest=manifest.text()).data())

    def remove(self, folder: Path) -> None:
        """Delete a session."""
        with self._guard:
            self._held.pop(folder, None)
        shutil.rmtree(folder, ignore_errors=True)
        while (found := self._last(folder))[1] is not None:
            if self._append(folder, found[0] + 1, str(int(time.time())).encode()):
                break
        self._drop_all(_kept(folder))

    def unfinished(self, age: float) -> Iterator[Path]:
        """Sessions without a first version that were made a day ago, as the clocks of machines differ."""
        before = time.time() - max(age, DAY)
        given = self._store.names(GIVEN)
        self._store.drop(f"{GIVEN}/{name}" for name in given if int(name.partition("-")[0]) < before)
        for owner in self._store.folders(LOG):
            for id_, numbers in self._logs(owner).items():
                folder, number = self.folder / owner / id_, max(numbers)
                if numbers[number] == GONE:
                    if int(self._store.read(_named(folder, number))) < before:
                        self._store.drop(_named(folder, each) for each in sorted(numbers))
                elif numbers[number] < SMALL:
                    seal = self._last(folder)[1]
                    if seal is not None and seal.manifest is None and seal.at < before:
                        yield folder

    # What is sent in

    def hand_over(self, file: Path) -> str:
        """Others fetch it from the store."""
        name = f"{GIVEN}/{int(time.time())}-{secrets.token_hex(8)}"
        self._store.send([(file, name)])
        file.unlink()
        return name

    def fetch(self, name: str) -> Path:
        """What another server handed over."""
        file = self.incoming()
        self._store.fetch([(name, file)])
        return file

    def put_down(self, file: Path) -> None:
        """It was read."""
        file.unlink(missing_ok=True)

    def discard(self, name: str) -> None:
        """Nobody fetches it any more."""
        self._store.drop([name])


def _is_there(numbers: dict[int, int]) -> bool:
    """Whether a log is that of a session, and of none that was deleted."""
    return bool(numbers) and numbers[max(numbers)] != GONE


def _named(folder: Path, number: int) -> str:
    return f"{LOG}/{folder.parent.name}/{folder.name}.{number}"


def _kept(folder: Path) -> str:
    return f"{FILES}/{folder.parent.name}/{folder.name}"


def _files(folder: Path, manifest: Manifest) -> dict[Path, str]:
    """The files of a session's versions in its folder, and their names in the store."""
    return {
        version_folder(folder, entry.folder) / name: f"{_kept(folder)}/{facts['blake2b']}"
        for entry in manifest.versions
        for name, facts in entry.files.items()
    }
