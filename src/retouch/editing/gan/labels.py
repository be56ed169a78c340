"""Semantic image synthesis: edit a map of labels, and the picture made of it follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from retouch.editing.archive import Archive, Progress, silent
from retouch.editing.fields import Fields, flag, positive
from retouch.editing.gan.editor import GeneratorEditor
from retouch.editing.gan.session import GeneratorSession
from retouch.editing.images import ImageError, ImageLike, Pixels, as_integers, as_mask, from_tensor
from retouch.editing.jobs import Job
from retouch.editing.manifest import SOURCE, ArchiveError, Manifest
from retouch.editing.session import locked
from retouch.editing.version import Edited, Version
from retouch.incremental import Incremental
from retouch.kernels.devices import selected
from retouch.models import spade
from retouch.models.spade import SpadeGenerator
from retouch.runtime.store import Store

Labels = npt.NDArray[np.int32]
"""Class ids, or ids of instances, [H, W]."""

Point = tuple[float, float]
"""x and y in pixels."""


class LabelSession(GeneratorSession):
    """A session of a `LabelEditor`: its source is a map of labels, its image the picture made of it.

    Edits with a brush, a shape or a patch make one new instance, where the source has instances.
    """

    kind = "labels"
    saved_settings: ClassVar[Fields] = {"labels": positive, "instances": flag}

    def __init__(self, net: Incremental, store: Store, settings: dict[str, Any]) -> None:
        super().__init__(net, store, settings)
        self.count: int = settings["labels"]
        self.planes = 2 if settings["instances"] else 1

    @property
    def source_spec(self) -> tuple[tuple[int, ...], torch.dtype]:
        """int32 `[1, H, W]` labels, or `[2, H, W]` labels and instances."""
        return (self.planes, *self.size), torch.int32

    @property
    def labels(self) -> Labels:
        """The current labels [H, W]; a copy."""
        labels: Labels = self.source[0]
        return labels

    @property
    def instances(self) -> Labels | None:
        """The current ids of instances [H, W], a copy; None: the source has none."""
        return self.source[1] if self.planes == 2 else None

    def pictures(self, version: Version) -> dict[str, Pixels]:
        """The picture, and the labels in grey."""
        labels = version.tensors["source"][0].numpy().astype(np.uint8)
        return {**super().pictures(version), SOURCE: np.repeat(labels[..., None], 3, 2)}

    def read(self, source: Tensor) -> Tensor:
        """One-hot labels and the edges of instances, see `retouch.models.spade.semantics`."""
        found = spade.semantics(source[0], self.count, source[1] if self.planes == 2 else None)
        return found.to(next(self.net.module.parameters()).dtype)

    def differs(self, before: Tensor, after: Tensor) -> Tensor:
        """Where labels or edges do."""
        ids = self.planes - 1
        return (before[0] != after[0]) | (spade.edges(before[ids]) != spade.edges(after[ids]))

    def shown(self, result: Tensor) -> Pixels:
        """uint8 `[H, W, 3]`."""
        return from_tensor(result.float())

    # Edits

    @locked
    def edit(
        self,
        labels: ImageLike | None = None,
        *,
        instances: ImageLike | None = None,
        mask: ImageLike | None = None,
        progress: Progress = silent,
    ) -> Edited:
        """Update the picture for other labels.

        labels: ids [H, W], as for `LabelEditor.open`; None: the current ones.
        instances: ids of instances; None: the current ones. mask: where to take both; None: everywhere.

        Raises ImageError for bad input; then, and when it is interrupted, the session is as before.
        """
        return self._edited(self._drawn(labels, instances, mask), progress)

    def submit(
        self,
        labels: ImageLike | None = None,
        *,
        instances: ImageLike | None = None,
        mask: ImageLike | None = None,
        join: bool = True,
        progress: Progress = silent,
    ) -> Job[Edited]:
        """Begin an edit and return: `edit` as a job, with the same arguments; `progress` is called in another thread.

        join: the session's jobs that are not done are cancelled, and what was drawn there made part of this edit, newer
        labels over older ones. With False this edit comes after them.

        Raises ImageError for bad input, SessionError when the session is closed or too much waits.
        """
        return self._submitted(lambda: self._drawn(labels, instances, mask), join, progress)

    @locked
    def reference(
        self, labels: ImageLike | None = None, *, instances: ImageLike | None = None, mask: ImageLike | None = None
    ) -> Edited:
        """What a dense run makes of the same edit; the session stays as it is."""
        return self._dense(self._drawn(labels, instances, mask))

    def brush(self, points: Sequence[Point], width: int, label: int, progress: Progress = silent) -> Edited:
        """Paint a label along a line through `points`, `width` pixels wide."""
        if width < 1 or not points:
            raise ImageError(f"a brush of width {width} with {len(points)} points paints nothing")

        def stroke(draw: ImageDraw.ImageDraw) -> None:
            draw.line(list(points), fill=255, width=width, joint="curve")
            reach = (width - 1) / 2
            for x, y in points:
                draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=255)

        return self.fill(self._shape(stroke), label, progress)

    def rectangle(self, corner: Point, other: Point, label: int, progress: Progress = silent) -> Edited:
        """Paint a label on a rectangle between two corners, both inside it."""
        (left, right), (top, bottom) = (sorted(pair) for pair in zip(corner, other, strict=True))
        return self.fill(
            self._shape(lambda draw: draw.rectangle((left, top, right, bottom), fill=255)), label, progress
        )

    def polygon(self, points: Sequence[Point], label: int, progress: Progress = silent) -> Edited:
        """Paint a label on the inside of a polygon."""
        if len(points) < 3:
            raise ImageError(f"a polygon needs three corners or more, not {len(points)}")
        return self.fill(self._shape(lambda draw: draw.polygon(list(points), fill=255)), label, progress)

    @locked
    def fill(self, mask: ImageLike, label: int, progress: Progress = silent) -> Edited:
        """Give the white part of a mask a label."""
        white = as_mask(mask, self.size)
        if not 0 <= label < self.count:
            raise ImageError(f"there is no label {label}: the network knows 0 to {self.count - 1}")
        return self._painted(white, label, progress)

    @locked
    def paste(self, patch: ImageLike, corner: tuple[int, int], progress: Progress = silent) -> Edited:
        """Put a smaller map of labels down with its upper left corner at (x, y); what hangs over is cut off."""
        ids = checked_labels(patch, self.count)
        (x, y), (height, width) = corner, self.size
        part = ids[max(0, -y) : height - y, max(0, -x) : width - x]
        if not part.size or x >= width or y >= height:
            raise ImageError(f"a patch of {ids.shape[1]}x{ids.shape[0]} at {x}, {y} lies outside the map")
        area = np.s_[max(0, y) : max(0, y) + part.shape[0], max(0, x) : max(0, x) + part.shape[1]]
        return self._painted(area, part, progress)

    def _painted(self, area: Any, labels: Any, progress: Progress) -> Edited:
        """Labels in an area of the source, which becomes one instance."""
        source = self.source
        source[0][area] = labels
        if self.planes == 2:
            source[1][area] = source[1].max() + 1
        return self._edited(torch.from_numpy(source), progress)

    def _shape(self, draw: Any) -> npt.NDArray[np.bool_]:
        canvas = Image.new("L", self.size[::-1])
        draw(ImageDraw.Draw(canvas))
        return np.asarray(canvas) > 0

    def _drawn(self, labels: ImageLike | None, instances: ImageLike | None, mask: ImageLike | None) -> Tensor:
        if instances is not None and self.planes == 1:
            raise ImageError("the session was opened without a map of instances; open it with one")
        source = self.source
        where = np.ones(self.size, np.bool_) if mask is None else as_mask(mask, self.size)
        if labels is not None:
            source[0][where] = checked_labels(labels, self.count, self.size)[where]
        if instances is not None:
            source[1][where] = as_integers(instances, self.size)[where]
        return torch.from_numpy(source)


class LabelEditor(GeneratorEditor[LabelSession, SpadeGenerator]):
    """Opens sessions on maps of labels that a SPADE generator (GauGAN) turns into pictures.

    network: a `retouch.models.spade.SpadeGenerator`. The rest: as for `GeneratorEditor`.
    """

    sessions = LabelSession

    @staticmethod
    def from_pretrained(
        name: str | Path,
        *,
        upsamplings: int = 6,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "auto",
        **options: Any,
    ) -> LabelEditor:
        """An editor with the generator of a checkpoint, compressed (GAN Compression) or not.

        name: a file as published (a PyTorch state dictionary, spectral norms included) or in safetensors.
        upsamplings: 6 ("more"), or 5 ("normal"). device: as for `Editor.from_pretrained`.

        Raises WeightFileError when the file does not fit, ValueError for a device that cannot be used.
        """
        place = selected(device, options.get("backend", "auto"))
        network = spade.from_checkpoint(Path(name), upsamplings)
        return LabelEditor(network.to(place, dtype), name=str(Path(name).absolute()), **options)

    @property
    def channels(self) -> int:
        """Labels, and the edges of instances."""
        return self.module.labels

    @property
    def count(self) -> int:
        """How many labels there are."""
        return self.channels - 1

    def open(
        self,
        labels: ImageLike,
        *,
        instances: ImageLike | None = None,
        folder: str | Path | None = None,
        wait: bool = True,
        progress: Progress = silent,
    ) -> LabelSession:
        """Make the picture of a map of labels and record how, to edit it.

        labels: class ids [H, W]: a PNG of one channel or with a palette (its indices), or an array.
        instances: ids of instances, of the same size; None: every area of one label is one.
        folder: keep the session there; None: `Session.save` does later.
        wait: as for `Editor.open`; the labels are there at once, the picture when `session.opening` is done.

        Raises ImageError for ids that the network does not know and sizes that it does not divide.
        """
        ids = checked_labels(labels, self.count)
        size = (ids.shape[0], ids.shape[1])
        planes = [ids] if instances is None else [ids, as_integers(instances, size)]
        session = self._session(size, progress, labels=self.count, instances=instances is not None)
        source = torch.from_numpy(np.stack(planes))
        return self._recorded(session, folder, lambda: session.record(source, progress), wait, {"source": source})

    def check_size(self, size: tuple[int, int]) -> None:
        """ImageError for a size (H, W) that the network does not divide."""
        step = self.module.multiple
        if size[0] % step or size[1] % step or not all(size):
            raise ImageError(f"a map of {size[1]}x{size[0]} does not fit: width and height must be multiples of {step}")

    def _options(self) -> dict[str, Any]:
        return {"upsamplings": self.module.upsamplings}

    def _restored(self, archive: Archive, manifest: Manifest, progress: Progress) -> LabelSession:
        session = super()._restored(archive, manifest, progress)
        if session.count != self.count:
            raise ArchiveError(f"the session in {archive.path} was recorded with another network (its labels differ)")
        return session


def checked_labels(labels: ImageLike, count: int, size: tuple[int, int] | None = None) -> Labels:
    """Ids below `count` [H, W]; ImageError naming the first that is none."""
    ids = as_integers(labels, size)
    wrong = np.argwhere((ids < 0) | (ids >= count))
    if len(wrong):
        y, x = wrong[0]
        raise ImageError(
            f"there is no label {ids[y, x]} (at x {x}, y {y}; {len(wrong)} pixels in all): "
            f"the network knows 0 to {count - 1}"
        )
    return ids
