"""Canvases of an editor: pictures of any size whose viewports are sessions of it, all in one store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retouch.editing.archive import Archive, Progress
from retouch.editing.canvas.canvas import Canvas
from retouch.editing.canvas.making import RECORDED, TEXTS
from retouch.editing.canvas.picture import Picture
from retouch.editing.canvas.resample import Size
from retouch.editing.canvas.view import Part
from retouch.editing.diffusion.asked import Asked
from retouch.editing.diffusion.model import Model
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.diffusion.views import View, redrawn_together
from retouch.editing.editor import BaseEditor
from retouch.editing.images import Box, ImageLike, Pixels
from retouch.editing.manifest import Manifest
from retouch.editing.version import Edited
from retouch.runtime.store import Store


class Photographs(BaseEditor[DiffusionSession]):
    """What a canvas needs of an `Editor`, which is one."""

    model: Model
    open: Callable[..., DiffusionSession]
    unrecorded: Callable[..., DiffusionSession]


class Canvases(BaseEditor[Canvas]):
    """Opens canvases with an editor."""

    sessions = Canvas

    def __init__(self, editor: Photographs) -> None:
        self.editor = editor
        kept = editor.memory, editor.device_memory, editor.folder, editor.storage, editor.history
        super().__init__(editor.name, editor.backend, *kept)

    @property
    def device(self) -> torch.device:
        """Where the editor's networks are."""
        return self.editor.device

    def open(
        self,
        picture: ImageLike | Picture,
        folder: str | Path | None,
        size: Size | None,
        floor: float,
        disk: int | None,
        enlarger: str,
        progress: Progress,
        **settings: Any,
    ) -> Canvas:
        """A canvas; see `Editor.canvas`."""
        found = picture if isinstance(picture, Picture) else Picture.read(picture)
        viewport = size or self.editor.model.default_size
        store = self._store()
        blank = self.editor.unrecorded(viewport, **settings, progress=progress)
        own = {"height": found.size[0], "width": found.size[1], "viewport": [*viewport], "floor": floor}
        canvas = self._canvas(blank, store, {**blank.settings, **own, "enlarger": enlarger, "views": []}, disk)
        return self._recorded(canvas, folder, lambda: canvas.begin(found, settings), True, {})

    def _canvas(
        self, blank: DiffusionSession, store: Store, settings: dict[str, Any], disk: int | None = None
    ) -> Canvas:
        return Canvas(self.editor.sharing(store), _together, blank, store, settings, self.editor.model.factor, disk)

    def _restored(self, archive: Archive, manifest: Manifest, progress: Progress) -> Canvas:
        settings, facts = manifest.settings, manifest.versions[0].facts
        given = {name: settings[name] for name in RECORDED} | {name: facts[name] for name in TEXTS}
        blank = self.editor.unrecorded(tuple(settings["viewport"]), **given, progress=progress)
        return self._canvas(blank, self._store(manifest.storage), settings)


def _together(
    parts: Sequence[Part], inpaint: bool, options: Mapping[str, Any], progress: Progress
) -> tuple[Pixels, Box, Edited]:
    """One edit in several sessions; see `retouch.editing.diffusion.views`."""
    views: list[View] = []
    for part in parts:
        assert isinstance(part.session, DiffusionSession)
        top, left = part.corner
        shown = part.shown
        asked = Asked(shown.image, shown.mask, inpaint=inpaint, areas=shown.areas, **options)
        views.append(View(part.session, left, top, asked, part.frames))
    found = redrawn_together(views, progress)
    pixels, changed = np.asarray(found.image), max(found.edits, key=lambda each: each.region.fraction)
    height, width = pixels.shape[:2]
    box = slice(found.top, found.top + height), slice(found.left, found.left + width)
    return pixels, box, changed
