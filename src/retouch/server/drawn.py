"""What came with an edit: decoded once, and put on the exact pixels of the version that it was drawn on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from fastapi import File, UploadFile

from retouch.editing.area import Area
from retouch.editing.canvas.canvas import Canvas
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.gan.labels import LabelSession
from retouch.editing.gan.upscaler import UpscaleSession
from retouch.editing.images import Box, Pixels
from retouch.editing.kinds import AnySession
from retouch.editing.sheets import coloured
from retouch.plan.region import Mask
from retouch.server import uploads
from retouch.server.forms import DrawnForm, VariantsForm
from retouch.server.problems import Problem
from retouch.server.uploads import Rectangle


@dataclass(frozen=True)
class Files:
    """The files of an edit as they came."""

    overlay: bytes | None = None
    mask: bytes | None = None
    areas: tuple[bytes, ...] = ()

    @staticmethod
    def sent(
        overlay: Annotated[UploadFile | None, File(description="What was painted: PNG, RGBA of straight alpha")] = None,
        mask: Annotated[
            UploadFile | None,
            File(description="Where: PNG, grey. Absent: where the overlay is not transparent, and all areas"),
        ] = None,
        areas: Annotated[
            list[UploadFile] | None, File(description="Where each of the settings' areas is: PNG, grey")
        ] = None,
    ) -> Files:
        """Those of a request."""
        return Files(uploads.content(overlay), uploads.content(mask), tuple(each.file.read() for each in areas or ()))


@dataclass(frozen=True, eq=False)
class Place:
    """Where an edit is: a mask [h, w] (None: the words find the region) in a box of rows and columns; strength: that
    is asked for.
    """

    mask: Pixels | Mask | None
    box: Box
    strength: float | None = None


@dataclass(frozen=True)
class Drawn:
    """An edit apart from the picture that it is made on.

    rectangle: where the overlay `[h, w, 4]`, and `levels` `[h, w]` of the mask (None: the words find the region) and of
    areas lie in a picture of `size` (H, W). taken: the highest id of an instance that an edit before it has, which may
    wait for its turn yet.
    """

    form: DrawnForm
    rectangle: Rectangle
    size: tuple[int, int]
    overlay: Pixels | None
    levels: Pixels | None
    areas: tuple[Area, ...]
    taken: int = 0

    @staticmethod
    def read(form: DrawnForm, files: Files, size: tuple[int, int], taken: int = 0) -> Drawn:
        """What is painted on a picture of `size` (H, W). Problem 415 or 422 for what cannot be read."""
        whole = (0, 0, size[1], size[0])
        rectangle = Rectangle.inside(form.rect or whole, size)

        def levels(data: bytes, what: str) -> Pixels:
            found = uploads.part(data, what, "L", rectangle)
            return found if form.soft else uploads.white(found > 127)

        overlay = None if files.overlay is None else uploads.part(files.overlay, "the overlay", "RGBA", rectangle)
        words = form.areas
        if words and isinstance(form, VariantsForm):
            raise Problem(422, "variants know the words of the prompt alone; leave the areas away, or edit with them")
        if len(words) != len(files.areas):
            raise Problem(422, f"{len(words)} areas have words and {len(files.areas)} have masks; send a mask for each")
        masks = [levels(data, f"the mask of area {number}") for number, data in enumerate(files.areas)]
        if not all(each.any() for each in masks):
            raise Problem(422, "the mask of an area is 0 everywhere")
        found = [levels(files.mask, "the mask")] if files.mask is not None else list(masks)
        if files.mask is None and overlay is not None:
            found.append(uploads.white(overlay[..., 3] > 0))
        mask = np.maximum.reduce(found) if found else None
        if mask is not None and not mask.any():
            raise Problem(422, "nothing is painted: the mask, or the overlay's alpha, is 0 everywhere")
        areas = (Area(where, each.prompt, each.negative) for where, each in zip(masks, words, strict=True))
        return Drawn(form, rectangle, size, overlay, mask, tuple(areas), taken)

    @property
    def mask(self) -> Pixels | None:
        """Levels of the mask in all of the picture `[H, W]`."""
        return None if self.levels is None else self._spread(self.levels)

    @property
    def place(self) -> Place:
        """Where it is, as far as what it takes depends on that."""
        return Place(self.levels, self.rectangle.part, self.form.strength)

    def _spread(self, levels: Any) -> Pixels:
        return uploads.spread(levels, self.rectangle, self.size)

    def asked(self, session: AnySession) -> dict[str, Any]:
        """The arguments of an edit of the session's current picture. Problem 422 for what its kind does not do."""
        if isinstance(session, DiffusionSession):
            return self._redrawn(session)
        if isinstance(session, Canvas):
            return self._on_canvas(session)
        if isinstance(self.form, VariantsForm):
            raise Problem(422, "this model draws no noise, so there are no variants")
        if self.overlay is None or self.form.kind != "edit" or self.areas:
            raise Problem(422, "this model makes its picture of what is painted: send an overlay, and no areas")
        if isinstance(session, LabelSession):
            return self._labelled(session, self.overlay)
        assert isinstance(session, UpscaleSession)
        return {"image": uploads.composited(session.source, self.overlay, self.rectangle), "mask": self.mask}

    def _on_canvas(self, session: Canvas) -> dict[str, Any]:
        """What is in the rectangle alone."""
        if self.levels is None:
            raise Problem(422, "say where: paint, or mark with a mask")
        rows, columns = self.rectangle.part
        given = {"mask": self.levels, "box": (rows, columns), **self._words()}
        if self.areas:
            given["areas"] = self.areas
        if self.overlay is not None and "inpaint" not in given:
            seen = session.seen(session.version.number, (rows, columns))
            given["image"] = uploads.over(seen, self.overlay)
        return given

    def _words(self) -> dict[str, Any]:
        form, inpaint = self.form, self.form.kind == "inpaint"
        if inpaint and self.levels is None:
            raise Problem(422, "to inpaint, send a mask")
        found = {
            "prompt": form.prompt,
            "negative": form.negative,
            "strength": form.strength,
            "inpaint": inpaint or None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _redrawn(self, session: DiffusionSession) -> dict[str, Any]:
        areas = [replace(each, mask=self._spread(each.mask)) for each in self.areas]
        found = {"mask": self.mask, "areas": areas or None, **self._words()}
        if self.overlay is not None and "inpaint" not in found:
            found["image"] = uploads.composited(session.pixels, self.overlay, self.rectangle)
        given = {name: value for name, value in found.items() if value is not None}
        if given.keys() <= {"strength"}:
            raise Problem(422, "nothing is asked for: send an overlay, a mask or words")
        return given

    def _labelled(self, session: LabelSession, overlay: Pixels) -> dict[str, Any]:
        """Colours of the palette, as labels; where the source has instances, of one of them."""
        colours = coloured(np.arange(session.count)[None])[0]
        inside = overlay[..., 3] > 0
        match = (overlay[..., None, :3] == colours).all(-1)
        if not match.any(-1)[inside].all():
            raise Problem(422, "the overlay has colours that are no label's; the palette is in GET /api/models")
        labels, instances = session.labels, session.instances
        labels[self.rectangle.part][inside] = match.argmax(-1)[inside]
        if instances is None:
            if self.form.instance is not None:
                raise Problem(422, "the session was opened without a map of instances, so there is none to choose")
            return {"labels": labels, "mask": self.mask}
        new = max(int(instances.max()), self.taken) + 1 if self.form.instance is None else self.form.instance
        instances[self.rectangle.part][inside] = new
        return {"labels": labels, "instances": instances, "mask": self.mask}
