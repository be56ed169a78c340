"""Objects by name, wherever fsspec reaches: in S3 and stores like it, in memory, in a folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from retouch.errors import OptionError

AT_ONCE = 8
"""Objects that are sent or fetched at once."""
PART = ".part"
"""What names of files end in that are no objects yet."""
TRIES = 4
"""Objects that several try to create at once, to see whether one does."""

T = TypeVar("T")


class StorageError(OSError):
    """A store of objects does not answer, or refuses."""


class Store:
    """The objects below a URL that fsspec knows, or a folder. OptionError for one that it does not know, or whose
    driver is not installed. All methods raise StorageError where the store does not answer, FileNotFoundError for what
    is not there.
    """

    def __init__(self, where: str | Path) -> None:
        self.where = str(where).rstrip("/")
        try:
            files, self._root = fsspec.url_to_fs(self.where, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise OptionError(f"cannot keep sessions in {self.where}: {error}") from error
        self._files: Any = _Folder() if isinstance(files, LocalFileSystem) else files

    def read(self, name: str) -> bytes:
        """What an object holds."""
        with _told():
            return bytes(self._files.cat_file(self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        """Put an object in the place of the one that is there, if one is."""
        with _told():
            self._files.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Make an object that is not there; False when it is, with other content than this: then somebody else did."""
        try:
            with _told():
                self._files.pipe_file(self._path(name), data, mode="create")
            return True
        except (FileExistsError, StorageError) as error:
            try:
                return self.read(name) == data  # it may be there though no answer came, or was sent twice on the way
            except FileNotFoundError:
                if isinstance(error, StorageError):
                    raise error from None
                return False

    def names(self, folder: str) -> dict[str, int]:
        """The objects in a folder, and their bytes."""
        with _told():
            try:
                found = self._files.ls(self._path(folder), detail=True)
            except FileNotFoundError:
                return {}
        named = {each["name"].rstrip("/").rpartition("/")[2]: each for each in found if each["type"] == "file"}
        return {name: each["size"] for name, each in named.items() if not name.endswith(PART)}

    def folders(self, folder: str) -> list[str]:
        """The folders in a folder."""
        with _told():
            try:
                found = self._files.ls(self._path(folder), detail=True)
            except FileNotFoundError:
                return []
        return [each["name"].rstrip("/").rpartition("/")[2] for each in found if each["type"] == "directory"]

    def send(self, files: Iterable[tuple[Path, str]]) -> None:
        """Make objects of files."""
        _at_once(lambda each: self._files.put_file(str(each[0]), self._path(each[1])), files)

    def fetch(self, files: Iterable[tuple[str, Path]]) -> None:
        """Make files of objects, each at once whole, with their folders."""

        def fetched(each: tuple[str, Path]) -> None:
            name, file = each
            part = file.with_name(f"{file.name}.{secrets.token_hex(4)}{PART}")
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._files.get_file(self._path(name), str(part))
                part.replace(file)
            finally:
                part.unlink(missing_ok=True)

        _at_once(fetched, files)

    def drop(self, names: Iterable[str]) -> None:
        """Remove objects, if they are there."""

        def dropped(name: str) -> None:
            with suppress(FileNotFoundError):
                self._files.rm_file(self._path(name))

        _at_once(dropped, names)

    def prove(self) -> None:
        """OptionError unless of several who create an object at once one does, and it is listed then."""
        names = [f"trial-{secrets.token_hex(8)}" for _ in range(TRIES)]
        try:
            made = [sum(_at_once(partial(self._tried, name), range(AT_ONCE))) for name in names]
            listed = self.names("")
            self.drop(names)
        except OSError as error:
            raise OptionError(f"cannot keep sessions in {self.where}: {error.strerror or error}") from error
        if set(made) != {1} or not listed.keys() >= set(names):
            raise OptionError(
                f"cannot keep sessions in {self.where}: of several who create an object there at once, each has to be "
                "told whether it was the one; stores with conditional writes, as S3 is, do that"
            )

    def _tried(self, name: str, who: int) -> bool:
        return self.create(name, str(who).encode())

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")


class _Folder(LocalFileSystem):  # type: ignore[misc]
    """Files that appear whole, as objects do, and only their owner reads."""

    def __init__(self) -> None:
        super().__init__(auto_mkdir=True)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        """Write a file."""
        file, part = Path(path), Path(f"{path}.{secrets.token_hex(8)}{PART}")
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                stream.write(value)
                stream.flush()
                os.fsync(stream.fileno())
            if mode == "create":
                os.link(part, file)
            else:
                part.replace(file)
        finally:
            part.unlink(missing_ok=True)

    def ls(self, path: str, detail: bool = False, **options: Any) -> list[Any]:
        """What is in a folder, but for what is just being removed."""
        found = []
        with os.scandir(path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    found.append(self.info(entry))
        return found if detail else [each["name"] for each in found]


def _at_once(what: Callable[[Any], T], each: Iterable[Any]) -> list[T]:
    wanted = list(each)
    if not wanted:
        return []
    with _told(), ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(what, wanted))


@contextmanager
def _told() -> Iterator[None]:
    """Whatever drivers raise is a StorageError, but for what is or is not there."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, StorageError):
        raise
    except OSError as error:
        raise StorageError(error.errno, f"the storage of sessions: {error.strerror or error}") from error
    except Exception as error:
        raise StorageError(f"the storage of sessions: {error!r}") from error
