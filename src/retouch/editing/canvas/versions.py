"""Versions of one picture that is changed in place: each holds the levels that going to and from it exchanges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
from PIL import Image
from torch import Tensor

from retouch.editing.archive import Archive, Progress, silent, verify, version_folder
from retouch.editing.calls import Calls, Cancelled
from retouch.editing.canvas import saved
from retouch.editing.canvas.files import Levels, strips
from retouch.editing.canvas.picture import Patch, Picture
from retouch.editing.canvas.resample import Size, scaled
from retouch.editing.canvas.view import Now
from retouch.editing.canvas.viewport import common, holds, hull, inside, moved, sides, whole
from retouch.editing.history import History
from retouch.editing.images import Box, Pixels, as_pixels
from retouch.editing.manifest import PICTURE, TENSORS, ArchiveError, Entry, Manifest
from retouch.editing.session import Session, locked
from retouch.editing.version import Version
from retouch.plan.region import Mask
from retouch.runtime import blocks
from retouch.runtime.store import Store


@dataclass(eq=False)
class Expansion:
    """What made a picture larger.

    box: the picture before in the one after, which is of `size` (H, W). levels: those of the picture after, while it is
    the one before.
    """

    box: Box
    size: Size
    levels: Levels | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return 0 if self.levels is None else self.levels.nbytes

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


def picture_at(path: Path, entries: Sequence[Entry]) -> Picture:
    """The picture of a version that is saved in a folder, from the entries of the path to it; no model is loaded.

    Raises ArchiveError for files that are damaged.
    """
    verify(path, (replace(entry, files={TENSORS: entry.files[TENSORS]}) for entry in entries))
    found = [_read(path, entry) for entry in entries]
    picture = saved.picture_of(found[0])
    for tensors in found[1:]:
        swap(picture, _loaded(path, tensors, picture.levels.shape)[0])
    return picture


def glimpse_at(path: Path, entries: Sequence[Entry]) -> Pixels:
    """The same not larger than `saved.LONGEST`, from what saved versions show; only one picture's levels are mapped."""
    whole_, *others = entries[max(place for place, entry in enumerate(entries) if "mask" not in _read(path, entry)) :]
    found, size = as_pixels(version_folder(path, whole_.folder) / PICTURE), _read(path, whole_)["levels"].shape
    for entry in others:
        box = _scaled_to(found.shape[:2], (size[0], size[1]), saved.box_of(_read(path, entry)))
        found[box] = scaled(as_pixels(version_folder(path, entry.folder) / PICTURE), sides(box))
    return found


def _scaled_to(shown: Size, size: Size, box: Box) -> Box:
    """The pixels of a reduced picture that a box of a picture of `size` touches."""
    rows, columns = (
        slice(span.start * small // large, -(-span.stop * small // large))
        for span, small, large in zip(box, shown, size, strict=True)
    )
    return rows, columns


def _read(path: Path, entry: Entry) -> Mapping[str, Tensor]:
    """What is in the file of a version; ArchiveError unless it is of one."""
    tensors = blocks.read(version_folder(path, entry.folder) / TENSORS).tensors
    if not saved.fits(tensors, entry.parent is None):
        raise ArchiveError(f"the canvas in {path} is damaged: a version holds no picture")
    return tensors


class PictureSession(Session):
    """A session whose versions are patches of one picture.

    picture: the current version, with alpha, depth, profile and EXIF of the file that it comes from.
    """

    picture: Picture

    def __init__(self, store: Store, settings: dict[str, Any]) -> None:
        super().__init__(store, settings)
        self.patches: dict[int, Changed] = {}
        self._at = 0  # the version that the picture is
        self._first = (0, 0)  # the size of the first one
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
    def size(self) -> Size:
        """Height and width of the current picture."""
        return self.picture.size

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that the picture and its versions take."""
        patches = [patch.nbytes for patch in self.patches.values()]
        return super().held_bytes + self.picture.levels.nbytes + sum(patches)

    def picture_of(self, number: int) -> Picture:
        """The picture of a version; a copy. UndoError when there is none."""
        with self._still:
            found = replace(self.picture, levels=self.picture.levels.copy())
            for each in self._between(self._at, number):
                swap(found, deepcopy(self.patches[each]))
        return found

    def seen(self, number: int, box: Box | None = None) -> Pixels:
        """What a model sees of a version, or of a box of it; see `Picture.seen`. UndoError when there is none."""
        with self._still:
            if number == self._at:
                return self.picture.seen(box)
        return self.picture_of(number).seen(box)

    def changed(self, old: int, new: int) -> tuple[tuple[int, int], Box, Mask]:
        """Where the picture of one version may be another than that of an older or newer one.

        The corner (top, left) of the old picture in the new one, and of that a box and a mask [h, w] in it: whatever
        the old one does not have is in that, too. UndoError when there is no such version.
        """
        now, size = self.now, self.size_of(new)
        (top, left), (old_top, old_left) = now.corners[new], now.corners[old]
        corner = old_top - top, old_left - left
        numbers = self._between(old, new)
        parts = [(moved(box, -top, -left), mask) for box, mask in (now.changes[n] for n in numbers if n in now.changes)]
        there = common(moved(whole(self.size_of(old)), *corner), whole(size))
        if there != whole(size):
            mask = np.ones(size, np.bool_)
            if there is not None:
                mask[there] = False
            parts.append((whole(size), mask))
        seen = [(both, mask[inside(both, box)]) for box, mask in parts if (both := common(box, whole(size)))]
        box = reduce(hull, (box for box, _ in seen)) if seen else (slice(0, 0), slice(0, 0))
        found = np.zeros(sides(box), np.bool_)
        for where, mask in seen:
            found[inside(where, box)] |= mask
        return corner, box, found

    def size_of(self, number: int) -> Size:
        """Height and width of a version."""
        changes = (self.patches.get(version.number) for version in reversed(self._history.path(number)))
        return next((each.size for each in changes if isinstance(each, Expansion)), self._first)

    def _between(self, old: int, new: int) -> list[int]:
        """The versions to take back, newest first, and those to put in, oldest first, from one to another."""
        before, after = ([version.number for version in self._history.path(n)] for n in (old, new))
        return [n for n in reversed(before) if n not in after] + [n for n in after if n not in before]

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
        return Now(self.picture, self._history, changes, corners, corners[self._at])

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
        for each in self._between(self._at, number):
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
        self._first = self.picture.size
        self.patches, shapes = {}, {first.number: self.picture.levels.shape}
        for version in others:
            assert version.parent is not None
            found = _loaded(archive.path, version.tensors, shapes[version.parent])
            self.patches[version.number], shapes[version.number] = found
        bare = tuple(replace(version, tensors={}) for version in self._history.versions)
        self._history = replace(self._history, versions=bare)
        self._show(self._history.current)


def _loaded(path: Path, tensors: Mapping[str, Tensor], before: tuple[int, ...]) -> tuple[Changed, tuple[int, ...]]:
    """What a version changed of one with levels of a shape, and their shape after it. ArchiveError where that does not
    fit.
    """
    box, shape = saved.box_of(tensors), before
    changed: Changed
    if "mask" in tensors:
        changed, fit = saved.patch_of(tensors), holds(whole((before[0], before[1])), box)
    else:
        found = saved.picture_of(tensors)
        changed, shape = Expansion(box, found.size, found.levels), found.levels.shape
        fit = holds(whole(found.size), box) and (*sides(box), shape[2]) == before
    if not fit:
        raise ArchiveError(f"the session in {path} is damaged: a change does not lie in the picture")
    return changed, shape
