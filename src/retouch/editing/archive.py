"""Folders that hold saved sessions: versions as files that are never changed, named by one small manifest.

A version is written beside the others under a temporary name, flushed and renamed; then the manifest is
replaced, which is the moment it counts. A process that dies before leaves files that no manifest names, and
the next one removes them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from retouch.editing.home import LOCK, OWNERS, UNDER_CLAIM, LostError, flush, locked
from retouch.editing.lease import Claim, claim_of
from retouch.editing.manifest import MANIFEST, PICTURE, SOURCE, TENSORS, ArchiveError, Entry, Manifest

UNFINISHED = "manifest.json.new"
VERSION = re.compile(r"\d+(-\d+)?(\.part)?")

Progress = Callable[[int, int, str], None]
"""Told the steps done, the steps in all, and what comes next."""


def silent(done: int, total: int, what: str) -> None:
    """A progress that nobody sees."""


class Archive:
    """One session folder, locked while it is open; `light` where versions have no layers in it.

    claim: under which a server writes to it; then the lock only keeps other programs of this machine away, and one that
    a paused server still has is passed over.
    """

    def __init__(self, path: Path, made: bool = False, light: bool = False) -> None:
        self.path, self.light, self._made = path, light, made
        self.claim: Claim | None = claim_of(path)
        self._lock = None
        with suppress(*([ArchiveError] if self.claim else [])):
            self._lock = locked(path, f"{path} is in use by another process")

    @staticmethod
    def create(path: Path, light: bool = False) -> Archive:
        """A new session folder; ArchiveError when it is not `unused`."""
        made = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not unused(path):
                what = "holds a session already" if (path / MANIFEST).exists() else "is not empty"
                raise ArchiveError(f"{path} {what}; choose another folder")
            (path / "versions").mkdir(exist_ok=True)
            archive = Archive(path, made, light)
            archive.light = light or (archive.claim is not None and archive.claim.light)
            archive.clean(())
        except OSError as error:
            raise ArchiveError(f"cannot make the session folder {path}: {error.strerror or error}") from error
        return archive

    @staticmethod
    def open(path: Path) -> tuple[Archive, Manifest]:
        """A session folder and its manifest. Raises ArchiveError."""
        if not (path / MANIFEST).is_file():
            raise ArchiveError(f"{path} holds no session ({MANIFEST} is missing)")
        archive = Archive(path)
        try:
            manifest = Manifest.read(path)
        except BaseException:
            archive.close()
            raise
        archive.light = manifest.light
        return archive, manifest

    def close(self) -> None:
        """Let other processes open the folder."""
        if self._lock is not None:
            self._lock.release()
        if self.claim is not None:
            self.claim.release()

    def abandon(self) -> None:
        """Close a folder from `create` that holds no session yet, as if it had never been one."""
        self.close()
        if not (self.path / MANIFEST).exists():
            shutil.rmtree(self.path / "versions", ignore_errors=True)
            shutil.rmtree(self.path / OWNERS, ignore_errors=True)
            for name in (LOCK, self._unfinished):
                (self.path / name).unlink(missing_ok=True)
            if self._made:
                with suppress(OSError):
                    self.path.rmdir()

    # Writing

    def staging(self, name: str) -> Path:
        """An empty folder for the files of a version that is being made; `name` is that of its folder."""
        folder = self.staged(name)
        try:
            for old in (folder, self.folder(name)):
                shutil.rmtree(old, ignore_errors=True)
            folder.mkdir()
        except OSError as error:
            raise ArchiveError(f"cannot write to {folder}: {error.strerror or error}") from error
        return folder

    def seal(self, name: str) -> dict[str, dict[str, Any]]:
        """Flush the files of a version and give it its name; their sizes and checksums."""
        staging = self.staged(name)
        try:
            with ThreadPoolExecutor() as pool:
                files = sorted(staging.iterdir())
                entries = dict(zip([f.name for f in files], pool.map(_sealed, files), strict=True))
            flush(staging)
            staging.rename(self.folder(name))
            flush(self.path / "versions")
        except OSError as error:
            raise ArchiveError(f"cannot write {staging}: {error.strerror or error}") from error
        return entries

    def write(self, folder: Path, files: Mapping[str, bytes]) -> None:
        """Write files of a version that is being made."""
        try:
            for name, data in files.items():
                (folder / name).write_bytes(data)
        except OSError as error:
            raise ArchiveError(f"cannot write to {folder}: {error.strerror or error}") from error

    def discard(self, name: str) -> None:
        """Remove what was written of a version."""
        shutil.rmtree(self.staged(name), ignore_errors=True)

    def commit(self, manifest: Manifest) -> None:
        """Replace the manifest at once. LostError where a server has lost its claim: the last state stays."""
        new = self.path / self._unfinished
        try:
            with new.open("w", encoding="utf-8") as stream:
                stream.write(manifest.text())
                stream.flush()
                os.fsync(stream.fileno())
            if self.claim is not None:
                self.claim.admit(manifest)
            new.replace(self.path / MANIFEST)
            flush(self.path)
        except OSError as error:
            if self.claim is not None and self.claim.is_lost:
                raise LostError from error
            raise ArchiveError(f"cannot write {new}: {error.strerror or error}; the last state stays") from error
        except LostError:
            new.unlink(missing_ok=True)
            raise

    @property
    def _unfinished(self) -> str:
        return self.claim.unfinished if self.claim else UNFINISHED

    @property
    def is_lost(self) -> bool:
        """True when another server has taken the folder."""
        return self.claim is not None and self.claim.is_lost

    @property
    def revision(self) -> int:
        """The first one of versions made here."""
        return self.claim.revision if self.claim else 0

    def clean(self, names: Iterable[str]) -> None:
        """Remove the folders of versions other than these: what a stopped process, an undo or a refinement left."""
        known = set(names)
        for found in (self.path / "versions").iterdir():
            ours = self.claim is None or self.claim.owns(found.name)
            if found.name not in known and VERSION.fullmatch(found.name) and ours:
                shutil.rmtree(found, ignore_errors=True)

    def staged(self, name: str) -> Path:
        """Where the files of a version are until it has its name."""
        return self.path / "versions" / f"{name}.part"

    # Reading

    def folder(self, name: str) -> Path:
        """Where the files of a version are."""
        return version_folder(self.path, name)

    def drawn(self, entry: Entry) -> dict[str, bytes] | None:
        """The files with what the edit of a version was asked; None for one that cannot be made again."""
        if "checksum" not in entry.facts:
            return None
        others = {PICTURE, SOURCE, TENSORS, *(file for _, file in entry.layers)}
        return {name: self.read(entry, name) for name in entry.files if name not in others}

    def read(self, entry: Entry, name: str) -> bytes:
        """What a file of a version holds."""
        return read_file(self.path, entry, name)

    def verify(self, entries: Iterable[Entry], progress: Progress = silent) -> None:
        """Compare sizes and checksums of all files with the manifest; ArchiveError at the first that differs."""
        verify(self.path, entries, progress)


def verify(path: Path, entries: Iterable[Entry], progress: Progress = silent) -> None:
    """What `Archive.verify` does, in a folder that somebody else may have open."""
    wanted = [
        (version_folder(path, entry.folder) / name, facts) for entry in entries for name, facts in entry.files.items()
    ]
    with ThreadPoolExecutor() as pool:
        for done, problem in enumerate(pool.map(_problem, wanted)):
            progress(done, len(wanted), "checking the files")
            if problem:
                raise ArchiveError(f"{problem}; the session cannot be trusted")


def version_folder(path: Path, name: str) -> Path:
    """Where a session folder keeps the files of a version whose folder has that name."""
    return path / "versions" / name


def read_file(path: Path, entry: Entry, name: str) -> bytes:
    """What a file of a version holds in a session folder; ArchiveError when it cannot be read."""
    try:
        return (version_folder(path, entry.folder) / name).read_bytes()
    except OSError as error:
        raise ArchiveError(f"{name} of version {entry.number} cannot be read: {error.strerror or error}") from error


def unused(path: Path) -> bool:
    """True for a folder that is empty but for what a process left that was stopped before its first version."""
    versions = path / "versions"
    inside = [found.name for found in versions.iterdir()] if versions.is_dir() else []
    ours = {LOCK, OWNERS, UNFINISHED, *(["versions"] if versions.is_dir() else [])}
    others = {found.name for found in path.iterdir() if not UNDER_CLAIM.fullmatch(found.name)} - ours
    return not others and all(map(VERSION.fullmatch, inside))


def _sealed(file: Path) -> dict[str, Any]:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
    return _facts(file)


def _facts(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16))
        return {"bytes": os.fstat(stream.fileno()).st_size, "blake2b": digest.hexdigest()}


def _problem(wanted: tuple[Path, Mapping[str, Any]]) -> str:
    file, expected = wanted
    try:
        size = file.stat().st_size
        if size != expected["bytes"]:
            return f"{file} has {size} bytes instead of {expected['bytes']}"
        return "" if _facts(file) == expected else f"{file} was altered: its checksum differs"
    except OSError as error:
        return f"{file} cannot be read: {error.strerror or error}"
