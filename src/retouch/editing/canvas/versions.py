"""Versions of one picture that is changed in place: each holds the levels that going to and from it exchanges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, Self

from PIL import Image
from torch import Tensor

import retouch.runtime.store as blocks
from retouch.editing.archive import Archive, Progress, silent
from retouch.editing.calls import Calls, Cancelled
from retouch.editing.canvas import saved
from retouch.editing.canvas.files import Levels, strips
from retouch.editing.canvas.picture import Patch, Picture
from retouch.editing.canvas.view import Now
from retouch.editing.canvas.viewport import holds, moved, sides, whole
from retouch.editing.history import History
from retouch.editing.images import Box, Pixels
from retouch.editing.manifest import PICTURE, TENSORS, ArchiveError, Entry, Manifest
from retouch.editing.session import Session, Version, locked
from retouch.runtime.store import Store


@dataclass(eq=False)
class Expansion:
    """What made a picture larger.

    box: the picture before in the one after. levels: those of the picture after, while it is the one before.
    """

    box: Box
    levels: Levels | None = None

    def swap(self, picture: Picture) -> None:
        """Make a picture the one before, or after; done twice, everything is as it was."""
        put, self.levels = self.levels, None
        if put is None:
            self.levels, put = picture.levels, picture.levels[self.box].copy()
        picture.levels = put


Changed = Patch | Expansion


def swap(picture: Picture, changed: Changed) -> None:
    """Exchange what a picture holds and what it held before a change, or after it."""
    if isinstance(changed, Expansion):
        changed.swap(picture)
    else:
        picture.swap(changed)


def picture_at(archive: Archive, entries: Sequence[Entry]) -> Picture:
    """The picture of a saved version, from the entries of the path to it; no model is loaded.

    Raises ArchiveError for files that are damaged.
    """
    archive.verify(replace(entry, files={TENSORS: entry.files[TENSORS]}) for entry in entries)
    found = [blocks.read(archive.folder(entry.folder) / TENSORS).tensors for entry in entries]
    if not all(saved.fits(tensors, place == 0) for place, tensors in enumerate(found)):
        raise ArchiveError(f"the canvas in {archive.path} is damaged: a version holds no picture")
    picture = saved.picture_of(found[0])
    for tensors in found[1:]:
        swap(picture, _loaded(archive, tensors, picture.levels.shape)[0])
    return picture


class PictureSession(Session):
    """A session whose versions are patches of one picture.

    picture: the current version, with alpha, depth, profile and EXIF of the file that it comes from.
    """

    picture: Picture

    def __init__(self, store: Store, settings: dict[str, Any]) -> None:
        super().__init__(store, settings)
        self.patches: dict[int, Changed] = {}
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

    @property
    def image(self) -> Image.Image:
        """The current picture as Pillow has it, made some rows at a time."""
        with self._still:
            height, width = self.picture.size
            found = Image.new("RGB", (width, height))
            for rows in strips((height, width)):
                found.paste(Image.fromarray(self.picture.seen((rows, slice(0, width)))), (0, rows.start))
        return found

    def write(self, path: str | Path) -> Path:
        """Write the current picture to a file, in its depth, with alpha, profile and EXIF; see `Picture.write`."""
        with self._still:
            return self.picture.write(path)

    @property
    def now(self) -> Now:
        """The picture and where versions changed it, whoever holds the session's lock."""
        corners, changes = {self._history.versions[0].number: (0, 0)}, {}
        for version in self._history.versions[1:]:
            assert version.parent is not None
            (top, left), changed = corners[version.parent], self.patches[version.number]
            if isinstance(changed, Expansion):
                top, left = top - changed.box[0].start, left - changed.box[1].start
            else:
                changes[version.number] = moved(changed.box, top, left), changed.mask
            corners[version.number] = top, left
        return Now(self.picture, self._history, changes, corners[self._at])

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
            swap(self.picture, self.patches[each])
        self._at = number

    def _changed(self, change: Callable[[], Changed], calls: Calls, facts: dict[str, Any]) -> None:
        """Change the picture and make that the current version; the picture is as before where it cannot be kept."""
        with self._still:
            patch = self.patches[self._next] = change()
            try:
                self._put(calls, {}, facts)
            except BaseException:
                swap(self.picture, patch)
                del self.patches[self._next]
                raise
            self._at = self._history.current

    @locked
    def rechanged(self, old: Version, change: Callable[[], Changed], facts: Mapping[str, Any]) -> Version:
        """Change the picture otherwise than for the last version, which stays the same with some facts that are others.

        Cancelled when it is not the last any more.
        """
        if not self.is_last(old):
            raise Cancelled
        with self._still:
            before = self.patches[old.number]
            swap(self.picture, before)
            try:
                self.patches[old.number] = change()
                return self.replace(old, Calls(self.store, {}, None), {}, {**old.facts, **facts})
            except BaseException:
                if self.patches[old.number] is not before:
                    swap(self.picture, self.patches[old.number])
                    self.patches[old.number] = before
                swap(self.picture, before)
                raise

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
    def save(self, path: str | Path, progress: Progress = silent, *, light: bool = False) -> Path:
        """Save all versions to a new folder and keep later edits there too; the folder. Raises as `Session.save`; what
        its edits were asked is not kept, so it cannot be `light`.
        """
        current = self._at
        with self._still:
            try:
                return super().save(path, progress, light=light)
            finally:
                self._show(current)

    def _written(self, archive: Archive, version: Version) -> Version:
        self._show(version.number)
        return super()._written(archive, version)

    def _sealed(self, archive: Archive, version: Version) -> Version:
        """Written with what is in memory once: the picture is that version's."""
        changed = self.patches.get(version.number)
        if isinstance(changed, Patch):
            tensors = saved.of_patch(changed, self.picture)
        else:
            tensors = saved.of_picture(self.picture, changed.box if changed else None)
        return replace(super()._sealed(archive, replace(version, tensors=tensors)), tensors={})

    def pictures(self, version: Version) -> dict[str, Pixels]:
        """What was changed, or all, not larger than a screen."""
        changed = self.patches.get(version.number)
        return {PICTURE: saved.glimpse(self.picture.seen(changed.box if isinstance(changed, Patch) else None))}

    def load(self, archive: Archive, manifest: Manifest) -> None:
        """Take over what a folder holds. Raises ArchiveError when it was recorded with other networks."""
        super().load(archive, manifest)
        first, *others = self._history.versions
        self.picture, self._at = saved.picture_of(first.tensors), first.number
        self.patches, shapes = {}, {first.number: self.picture.levels.shape}
        for version in others:
            assert version.parent is not None
            found = _loaded(archive, version.tensors, shapes[version.parent])
            self.patches[version.number], shapes[version.number] = found
        bare = tuple(replace(version, tensors={}) for version in self._history.versions)
        self._history = replace(self._history, versions=bare)
        self._show(self._history.current)


def _loaded(
    archive: Archive, tensors: Mapping[str, Tensor], before: tuple[int, ...]
) -> tuple[Changed, tuple[int, ...]]:
    """What a version changed of one with levels of a shape, and their shape after it. ArchiveError where that does not
    fit.
    """
    box, shape = saved.box_of(tensors), before
    changed: Changed
    if "mask" in tensors:
        changed, fit = saved.patch_of(tensors), holds(whole((before[0], before[1])), box)
    else:
        found = saved.picture_of(tensors)
        changed, shape = Expansion(box, found.levels), found.levels.shape
        fit = holds(whole(found.size), box) and (*sides(box), shape[2]) == before
    if not fit:
        raise ArchiveError(f"the session in {archive.path} is damaged: a change does not lie in the picture")
    return changed, shape
