"""Versions of one picture that is changed in place: each holds the levels that going to and from it exchanges."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, Self

from PIL import Image

from retouch.editing.archive import Archive, Progress, silent
from retouch.editing.calls import Calls
from retouch.editing.canvas import saved
from retouch.editing.canvas.picture import Patch, Picture
from retouch.editing.history import History
from retouch.editing.images import ImageError, Pixels
from retouch.editing.manifest import PICTURE, ArchiveError, Manifest
from retouch.editing.session import Session, Version, locked
from retouch.runtime.store import Store


class PictureSession(Session):
    """A session whose versions are patches of one picture.

    picture: the current version, with alpha, depth, profile and EXIF of the file that it comes from.
    """

    picture: Picture

    def __init__(self, store: Store, settings: dict[str, Any]) -> None:
        super().__init__(store, settings)
        self.patches: dict[int, Patch] = {}
        self._at = 0  # the version that the picture is
        self._still = Lock()  # held by whoever changes the picture, and whoever reads it without the session's lock

    def calls(self) -> dict[str, str]:
        """None: versions hold no recordings."""
        return {}

    def is_complete(self, version: Version) -> bool:
        """True when levels are there, of the picture or of what was changed."""
        return saved.fits(version.tensors, version.parent is None)

    @property
    def pixels(self) -> Pixels:
        """The current picture as a model sees it, uint8 sRGB `[H, W, 3]` on white; a copy."""
        with self._still:
            return self.picture.seen()

    def write(self, path: str | Path) -> Path:
        """Write the current picture to a file, in its depth, with alpha, profile and EXIF; see `Picture.write`."""
        with self._still:
            return self.picture.write(path)

    # Moving

    @locked
    def _moved(self, to: Callable[[History[Version]], History[Version]]) -> Image.Image:
        history = to(self._history)
        with self._still:
            self._commit(history)
            self._show(history.current)
        return self.image

    @locked
    def forget(self, number: int) -> None:
        """Remove a version and all that was made from it. UndoError when the current one is among them."""
        super().forget(number)
        self.patches = {n: patch for n, patch in self.patches.items() if self._history.find(n) is not None}

    def _show(self, number: int) -> None:
        """Make the picture that of a version: take back what was changed since both were one, and put in the rest."""
        old, new = ([version.number for version in self._history.path(n)] for n in (self._at, number))
        for each in [n for n in reversed(old) if n not in new] + [n for n in new if n not in old]:
            self.picture.swap(self.patches[each])
        self._at = number

    def _changed(self, change: Callable[[], Patch], calls: Calls, facts: dict[str, Any]) -> None:
        """Change the picture and make that the current version; the picture is as before where it cannot be kept."""
        with self._still:
            patch = self.patches[self._next] = change()
            try:
                self._put(calls, {}, facts)
            except BaseException:
                self.picture.swap(patch)
                del self.patches[self._next]
                raise
            self._at = self._history.current

    @locked
    def branch(self) -> Self:
        """Another session at the current version, with a picture of its own; it is not saved yet."""
        twin = super().branch()
        twin.picture = replace(self.picture, levels=self.picture.levels.copy())
        twin.patches = {version.number: deepcopy(self.patches[version.number]) for version in twin._history.past[1:]}
        twin._still = Lock()
        return twin

    # Folders

    @locked
    def save(self, path: str | Path, progress: Progress = silent) -> Path:
        """Save all versions to a new folder and keep later edits there too; the folder. Raises as `Session.save`."""
        current = self._at
        with self._still:
            try:
                return super().save(path, progress)
            finally:
                self._show(current)

    def _written(self, archive: Archive, version: Version) -> Version:
        self._show(version.number)
        return super()._written(archive, version)

    def _sealed(self, archive: Archive, version: Version) -> Version:
        """Written with what is in memory once: the picture is that version's."""
        if version.parent is None:
            tensors = saved.of_picture(self.picture)
        else:
            tensors = saved.of_patch(self.patches[version.number], self.picture)
        return replace(super()._sealed(archive, replace(version, tensors=tensors)), tensors={})

    def pictures(self, version: Version) -> dict[str, Pixels]:
        """What was changed, or all, not larger than a screen."""
        box = None if version.parent is None else self.patches[version.number].box
        return {PICTURE: saved.glimpse(self.picture.seen(box))}

    def load(self, archive: Archive, manifest: Manifest) -> None:
        """Take over what a folder holds. Raises ArchiveError when it was recorded with other networks."""
        super().load(archive, manifest)
        first, *others = self._history.versions
        self.picture, self._at = saved.picture_of(first.tensors), first.number
        self.patches = {version.number: saved.patch_of(version.tensors) for version in others}
        try:
            for patch in self.patches.values():
                self.picture.check_box(patch.box)
        except ImageError as error:
            raise ArchiveError(f"the session in {archive.path} is damaged: {error}") from error
        bare = tuple(replace(version, tensors={}) for version in self._history.versions)
        self._history = replace(self._history, versions=bare)
        self._show(self._history.current)
