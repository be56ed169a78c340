"""The viewports of a canvas: recordings in memory while there is room, then in files, then made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from retouch.editing.canvas.resample import Scaling, Size
from retouch.editing.canvas.saved import view_of
from retouch.editing.canvas.view import View, ViewSession
from retouch.runtime.blocks import StoreError, spill_folder
from retouch.runtime.store import EDIT_SHARE, Store

DISK_SHARE = 0.4
"""Share of the free disk that viewports take unless it is told otherwise."""


@dataclass(eq=False)
class Pool:
    """Viewports, the least recently used first; one store keeps all their recordings, each of `nbytes`.

    restore: opens the session in a folder. on_device: recordings lie in a device's memory. disk: bytes of files;
    None: 40 % of what is free. count: of the viewports that there ever were. home: the folder for their files; None:
    one for temporary files.
    """

    store: Store
    nbytes: int
    restore: Callable[[Path], ViewSession]
    on_device: bool = False
    disk: int | None = None
    home: Path | None = None
    views: list[View] = field(default_factory=list)
    count: int = 0
    _temporary: TemporaryDirectory[str] | None = None

    def check_room(self, count: int = 1) -> None:
        """StoreError unless the recordings of so many viewports at once fit, into memory or files."""
        budget = int((1 - EDIT_SHARE) * (self.store.device_budget if self.on_device else self.store.budget))
        disk = self._allowed
        if count * self.nbytes > (max(budget, disk) if count == 1 else budget + disk):
            raise StoreError(
                f"there is no room for {count} viewport{'s' * (count > 1)}: a recording takes {self.nbytes / 1e6:.0f} "
                f"MB, of memory they may have {budget / 1e6:.0f} MB and of the disk {disk / 1e6:.0f} MB; give "
                "more, take fewer steps or smaller viewports, or keep rows as bf16"
            )

    def add(self, scaling: Scaling, versions: dict[int, int], session: ViewSession) -> View:
        """A view that was recorded."""
        view = View(self.count, scaling, versions, session, session.folder, self.nbytes)
        self.views.append(view)
        self.count += 1
        return view

    def find(self, scaling: Scaling) -> View | None:
        """The view of a viewport; None when there is none."""
        return next((view for view in self.views if view.scaling == scaling), None)

    @property
    def held_bytes(self) -> int:
        """Bytes that viewports in memory take."""
        return sum(view.session.held_bytes for view in self.views if view.session is not None)

    def make_room(self, keep: Collection[View] = ()) -> None:
        """Put views away, those first that were not used for longest, until another recording fits."""
        for view in [view for view in self.views if view.session is not None and view not in keep]:
            if self.store.fits(self.nbytes, base=True, on_device=self.on_device):
                break
            self._put_away(view)
        filed = [view for view in self.views if view.folder is not None and view not in keep]
        while filed and sum(view.nbytes for view in filed) > self._allowed:
            self.drop(filed.pop(0))

    def opened(self, view: View, keep: Collection[View] = ()) -> ViewSession | None:
        """The session of a view, which is then the last to go; None: its recording is lost."""
        if view.session is None:
            self.make_room(keep)
            try:
                assert view.folder is not None
                view.session = self.restore(view.folder)
            except StoreError:
                self.drop(view)
                return None
        self.views.remove(view)
        self.views.append(view)
        return view.session

    def drop(self, view: View) -> None:
        """Forget a view, its files as well."""
        self.views.remove(view)
        if view.session is not None:
            view.session.close()
        if view.folder is not None:
            shutil.rmtree(view.folder, ignore_errors=True)

    def move(self, home: Path) -> None:
        """Keep all views in another folder from now on."""
        self.home = home
        for view in list(self.views):
            if view.session is not None or self.opened(view) is not None:
                self._save(view)

    def _save(self, view: View) -> None:
        folder = self.folder(view.number)
        if view.session is not None and view.folder != folder:
            view.folder = view.session.save(folder)

    @property
    def saved(self) -> list[dict[str, Any]]:
        """What a manifest says of the views in the home."""
        return [view.saved for view in self.views if view.folder is not None and view.folder.parent == self.home]

    def load(self, saved: Sequence[Mapping[str, Any]], size: Size) -> None:
        """Take over the views in the home, of a size (H, W), that a manifest says."""
        self.views = [view_of(each, size) for each in saved]
        self.count = 1 + max((view.number for view in self.views), default=-1)
        for view in self.views:
            view.folder = self.folder(view.number)

    def folder(self, number: int) -> Path:
        """Where the files of a view go."""
        if self.home is None:
            if self._temporary is None:
                where = self.store.folder or spill_folder()
                where.mkdir(parents=True, exist_ok=True)
                self._temporary = TemporaryDirectory(prefix="retouch-", dir=where)
            return Path(self._temporary.name) / f"{number:04d}"
        return self.home / f"{number:04d}"

    def _put_away(self, view: View) -> None:
        try:
            self._save(view)
        except StoreError:
            self.drop(view)
            return
        assert view.session is not None
        view.session.close()
        view.session = None

    @property
    def _allowed(self) -> int:
        """Bytes of files that viewports may have in all."""
        if self.disk is not None:
            return self.disk
        filed = sum(view.nbytes for view in self.views if view.folder is not None)
        free = shutil.disk_usage(_existing(self.home or self.store.folder or spill_folder())).free
        return int(DISK_SHARE * (free + filed))

    def branched(self) -> Pool:
        """The same views for another canvas, those that are in memory."""
        views = [
            View(view.number, view.scaling, dict(view.versions), view.session.branch(), None, view.nbytes)
            for view in self.views
            if view.session is not None
        ]
        return replace(self, home=None, views=views, _temporary=None)

    def close(self) -> None:
        """Close all sessions; temporary files go."""
        for view in self.views:
            if view.session is not None:
                view.session.close()
                view.session = None
        if self._temporary is not None:
            with suppress(OSError):
                self._temporary.cleanup()


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
