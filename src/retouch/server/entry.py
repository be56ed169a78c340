"""What a server holds of one session."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any

from retouch.editing.history import History
from retouch.editing.images import Pixels
from retouch.editing.jobs import Job
from retouch.editing.kinds import AnySession, Saved
from retouch.editing.manifest import MANIFEST, Manifest
from retouch.server.hub import Hub
from retouch.server.idempotency import Answers
from retouch.server.problems import Problem


@dataclass(eq=False)
class Entry:
    """One session, in memory or only in its folder.

    held: bytes that count against the budget. users: requests and edits that need the session in memory. jobs: those
    of this run of the server by number, costs: their predicted seconds. answers: to edits that may be sent twice.
    shown: the version that pages were brought to, and its picture. estimate: the last version made, and the result that
    knows how far it may be off. passing: it may be removed when its owner has no room for another. draft: the last one.
    instance: the highest id that an edit gave to an instance of labels.
    """

    id: str
    owner: str
    folder: Path
    session: AnySession | None = None
    held: int = 0
    users: int = 0
    touched: float = field(default_factory=time.time)
    gone: bool = False
    passing: bool = False
    jobs: dict[int, Job[Any]] = field(default_factory=dict)
    costs: dict[int, float] = field(default_factory=dict)
    count: int = 0
    answers: Answers = field(default_factory=Answers)
    shown: tuple[int, Pixels] | None = None
    estimate: tuple[int, Any] | None = None
    draft: Job[Any] | None = None
    instance: int = 0
    hub: Hub = field(default_factory=Hub)
    lock: RLock = field(default_factory=RLock)

    def manifest(self) -> Manifest:
        """What the folder says. Problem 409 while nothing is saved yet."""
        if not (self.folder / MANIFEST).exists():
            raise Problem(409, "the session is still being opened")
        return Saved.read(self.folder).manifest

    def end_draft(self) -> None:
        """Something takes the place of the last draft."""
        draft, self.draft = self.draft, None
        if draft is not None:
            draft.cancel()

    @property
    def about(self) -> tuple[str, Mapping[str, Any]]:
        """Its kind and settings, wherever it is."""
        session = self.session
        if session is not None:
            return session.kind, session.settings
        manifest = self.manifest()
        return manifest.kind, manifest.settings

    @property
    def history(self) -> History[Any]:
        """The tree of its versions, wherever it is."""
        session = self.session
        return session.history if session is not None else self.manifest().history

    def pixels(self, number: int, source: bool = False) -> Pixels:
        """The picture of a version, or what edits are drawn on. Problem 404 when there is no such version."""
        session = self.session
        version = self.history.find(number)
        if version is None:
            raise Problem(404, f"there is no version {number}")
        if session is not None and not source:
            found: Pixels = version.pixels
            return found
        saved = Saved.read(self.folder)
        entry = saved.manifest.history[number]
        return saved.drawn_on(entry) if source else saved.pixels(entry)
