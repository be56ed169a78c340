"""A store of objects in memory that is slow, full or gone when a test says so."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

URL = "faulty://bucket"
_CREATING = threading.RLock()

Hook = Callable[[str, str], None]


class Faulty(MemoryFileSystem):
    """Tells hooks of the class which operation ("read", "write", "create", "list" or "remove") of which object begins,
    and has ended; what they raise is its failure.
    """

    protocol = "faulty"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    before: Hook | None = None
    after: Hook | None = None

    @contextmanager
    def _does(self, what: str, path: str) -> Iterator[None]:
        if Faulty.before is not None:
            Faulty.before(what, path)
        yield
        if Faulty.after is not None:
            Faulty.after(what, path)

    def cat_file(self, path, **options):
        with self._does("read", path):
            return super().cat_file(path, **options)

    def get_file(self, rpath, lpath, **options):
        with self._does("read", rpath):
            data = super().cat_file(rpath)
        with open(lpath, "wb") as stream:
            stream.write(data)

    def pipe_file(self, path, value, mode="overwrite", **options):
        with self._does("create" if mode == "create" else "write", path), _CREATING:
            super().pipe_file(path, bytes(value), mode, **options)

    def put_file(self, lpath, rpath, **options):
        with open(lpath, "rb") as stream, self._does("write", rpath):
            super().pipe_file(rpath, io.BytesIO(stream.read()).getvalue())

    def ls(self, path, detail=True, **options):
        with self._does("list", path), _CREATING:
            return super().ls(path, detail, **options)

    def rm_file(self, path):
        with self._does("remove", path), _CREATING:
            super()._rm(path)


fsspec.register_implementation("faulty", Faulty, clobber=True)


@contextmanager
def emptied() -> Iterator[type[Faulty]]:
    """The store, with nothing in it, in a block."""
    Faulty.store.clear()
    Faulty.pseudo_dirs[:] = [""]
    try:
        yield Faulty
    finally:
        Faulty.before = Faulty.after = None
        Faulty.store.clear()


def names(folder: str = "") -> list[str]:
    """The objects that are there."""
    return sorted(name for name in Faulty.store if folder in name)
