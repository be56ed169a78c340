"""What a server holds of one session."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from retouch.editing.canvas.canvas import Canvas
from retouch.editing.canvas.picture import Picture
from retouch.editing.canvas.resample import Scaling
from retouch.editing.history import History
from retouch.editing.home import Home
from retouch.editing.images import Pixels, as_pixels
from retouch.editing.jobs import Job
from retouch.editing.kinds import AnySession
from retouch.editing.manifest import MANIFEST, Manifest
from retouch.editing.saved import Saved
from retouch.server.frames import Difference
from retouch.server.hub import Hub
from retouch.server.opening import Deferred, Opening
from retouch.server.problems import Problem


@dataclass(frozen=True, eq=False)
class Looking:
    """A viewport of a canvas that is being prepared, and the job that does it."""

    viewport: Scaling
    job: Job[None]


@dataclass(frozen=True, eq=False)
class Awaited:
    """What is known of a session before it is made.

    settings: those of its manifest, as far as they are told. picture: what it begins with, if that is known.
    """

    kind: str
    settings: Mapping[str, Any]
    picture: Pixels | Picture | None

    @property
    def pixels(self) -> Pixels | None:
        """The picture `[H, W, 3]`."""
        return self.picture.seen() if isinstance(self.picture, Picture) else self.picture


@dataclass(eq=False)
class Numbered:
    """A job with its kind, the seconds that are predicted of it, and what was told of it last: done, total, text."""

    job: Job[Any]
    kind: str
    seconds: float
    progress: tuple[int, int, str] | None = None


@dataclass(eq=False)
class Entry:
    """One session, in memory or only in its folder.

    awaited: what is known of it until it is made. opening: what makes it, or opens it again. waiting: edits until then,
    in their order. held: bytes that count against the budget. users: requests and edits that need the session in
    memory. jobs: those of this run of the server by number. count: the number of the last one, see `Pool`. shown: the
    version that pages were brought to, and its picture, if that is no canvas. estimate: the last version made, and the
    result that knows how far it may be off. passing: it may be removed when its owner has no room for another. draft:
    the last one. looking: what of a canvas is prepared. instance: the highest id that an edit gave to an instance of
    labels.
    """

    id: str
    owner: str
    folder: Path
    home: Home
    session: AnySession | None = None
    awaited: Awaited | None = None
    opening: Opening | None = None
    waiting: list[Deferred[Any]] = field(default_factory=list)
    held: int = 0
    users: int = 0
    touched: float = field(default_factory=time.time)
    gone: bool = False
    passing: bool = False
    jobs: dict[int, Numbered] = field(default_factory=dict)
    count: int = 0
    shown: tuple[int, Pixels | None] | None = None
    estimate: tuple[int, Any] | None = None
    draft: Job[Any] | None = None
    looking: Looking | None = None
    instance: int = 0
    hub: Hub = field(default_factory=Hub)
    lock: RLock = field(default_factory=RLock)

    def saved(self, files: bool = False) -> Saved:
        """What is sealed, with `files` those of its versions in its folder too. Problem 409 while nothing is."""
        if self.session is None:
            self.home.refresh(self.folder, files)
        if not (self.folder / MANIFEST).exists():
            raise Problem(409, "the session is still being opened")
        return Saved.read(self.folder)

    def manifest(self) -> Manifest:
        """What it says. Problem 409 while nothing is sealed yet."""
        return self.saved().manifest

    def end_draft(self) -> None:
        """Something takes the place of the last draft."""
        draft, self.draft = self.draft, None
        if draft is not None:
            draft.cancel()

    @property
    def takes_edits(self) -> bool:
        """Whether the session is in memory and can be drawn on, though it may be recorded yet."""
        session = self.session
        return session is not None and bool(session.versions or session.awaited)

    @property
    def about(self) -> tuple[str, Mapping[str, Any]]:
        """Its kind and settings, wherever it is."""
        awaited, session = self.awaited, self.session
        if session is not None:
            return session.kind, session.settings
        if awaited is not None:
            return awaited.kind, awaited.settings
        manifest = self.manifest()
        return manifest.kind, manifest.settings

    @property
    def history(self) -> History[Any]:
        """The tree of its versions, wherever it is."""
        awaited, session = self.awaited, self.session
        if session is not None:
            return session.history
        return self.manifest().history if awaited is None else History()

    @property
    def coming(self) -> Pixels | None:
        """The picture before there is a version of it; None where it is not known, or there is one."""
        awaited, session = self.awaited, self.session
        if session is not None:
            return session.pixels if "image" in session.awaited else None
        return None if awaited is None else awaited.pixels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what is painted on, wherever it is."""
        session, settings = self.session, self.about[1]
        return session.size if session is not None else (settings["height"], settings["width"])

    def pixels(self, number: int, source: bool = False) -> Pixels:
        """The picture of a version, or what edits are drawn on. Problem 404 when there is no such version."""
        session = self.session
        version = self._version(number)
        if isinstance(session, Canvas):
            return session.seen(number)
        if session is not None and not source:
            found: Pixels = version.pixels
            return found
        saved = self.saved(files=True)
        entry = saved.manifest.history[number]
        return saved.drawn_on(entry) if source else saved.pixels(entry)

    def picture(self, number: int) -> Picture:
        """The picture of a version of a canvas, as its file has it. Problem 404 when there is no such version."""
        session = self.session
        self._version(number)
        if isinstance(session, Canvas):
            return session.picture_of(number)
        saved = self.saved(files=True)
        return saved.canvas(saved.manifest.history[number])

    def glimpse(self, number: int, change: bool) -> Pixels:
        """The picture of a version, of a canvas a small one, or with `change` what it changed. Problem 404 when there
        is no such version.
        """
        self._version(number)
        if self.about[0] != Canvas.kind:
            return self.pixels(number)
        saved = self.saved(files=True)
        entry = saved.manifest.history[number]
        return as_pixels(saved.picture(entry)) if change else saved.glimpse(entry)

    def _version(self, number: int) -> Any:
        version = self.history.find(number)
        if version is None:
            raise Problem(404, f"there is no version {number}")
        return version

    def difference(self, old: tuple[int, Pixels | None] | None, new: int) -> Difference:
        """What brings a page to a version: from one that it has (its number, and picture if that is known), or from
        nothing.
        """
        session = self.session
        if old is None or (old[1] is None and self.history.find(old[0]) is None):
            return Difference.between(None, self.pixels(new))
        number, before = old
        if isinstance(session, Canvas):
            return _of_canvas(session, number, new)
        return Difference.between((number, self.pixels(number) if before is None else before), self.pixels(new))


def _of_canvas(session: Canvas, old: int, new: int) -> Difference:
    """From one version of a canvas to another, without a look at the rest of both."""
    (top, left), box, differs = session.changed(old, new)
    before, size = session.size_of(old), session.size_of(new)
    pixels = session.seen(new, box) if differs.size else np.empty((0, 0, 3), np.uint8)
    moved = (left, top) if (before, (top, left)) != (size, (0, 0)) else None
    return Difference(old, size, (box[1].start, box[0].start), differs, pixels, moved)
