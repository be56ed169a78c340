"""Versions without layers: which are dropped when a session holds too much, and what tells that one is itself again.

An edit is a function of the version before it and of what it was asked, so its layers can be computed again. What was
asked is kept with the version: facts, and pictures of a few kilobytes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from retouch.editing.history import History, Node
from retouch.editing.images import Box, Pixels, box_of, difference
from retouch.editing.manifest import ArchiveError
from retouch.plan.region import Mask
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.state.layers import Layer


class Layered(Node, Protocol):
    """A version with its layers, or without them."""

    @property
    def snapshots(self) -> Mapping[str, Snapshot]: ...  # noqa: D102
    @property
    def drawn(self) -> Mapping[str, bytes] | None: ...  # noqa: D102
    def dropped(self) -> Self: ...  # noqa: D102


NOWHERE: Box = (slice(0, 0), slice(0, 0))

V = TypeVar("V", bound=Layered)


def layers_of(*versions: Layered) -> set[Layer]:
    """The layers of versions."""
    return set[Layer]().union(*(snapshot.layers for v in versions for snapshot in v.snapshots.values()))


def held(layers: Iterable[Layer]) -> int:
    """Bytes of layers, those in files of a session's folder not counted."""
    return sum(layer.nbytes for layer in layers if layer.in_memory)


def trimmed(history: History[V], budget: int) -> History[V]:
    """The history with the oldest edits dropped until all layers above the first version's take no more than `budget`.

    What the current version is made of stays, and so do versions of nothing else, and those that cannot be made again.
    """
    first, *others = history.versions
    others = [version for version in others if version.snapshots]
    layers = {version: layers_of(version) for version in (first, *others)}
    needed = layers[first] | layers_of(history[history.current])
    versions = Counter(chain.from_iterable(layers.values()))
    over = held(versions) - held(layers[first]) - budget
    for version in others:
        if over <= 0:
            break
        if version.drawn is not None and any(layer.in_memory for layer in layers[version] - needed):
            history = history.replaced(version.dropped())
            versions.subtract(layers[version])
            over -= held(layer for layer in layers[version] if not versions[layer])
    return history


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Of the bytes of tensors and their names."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


# Pictures of what changed


def png(array: npt.NDArray[Any]) -> bytes:
    """A picture in a file: uint8 `[H, W]` or `[H, W, 4]`, or uint16 `[H, W]`."""
    file = BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return file.getvalue()


def decoded(data: bytes, size: tuple[int, int] | None = None) -> npt.NDArray[Any]:
    """The picture that `png` made, of that size (H, W) if one is named. ArchiveError when it is none."""
    try:
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            if size is not None and image.size != size[::-1]:
                raise ArchiveError(f"a picture of an edit is {image.size}, not {size[::-1]}; it cannot be trusted")
            return np.array(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ArchiveError(f"a picture of an edit cannot be read: {error}") from error


@dataclass(frozen=True, eq=False)
class Cropped:
    """A picture of a shape that is `ground` everywhere but in a box, and there `part`."""

    shape: tuple[int, ...]
    ground: int
    box: Box
    part: npt.NDArray[Any]

    @staticmethod
    def of(picture: npt.NDArray[Any], ground: int = 0) -> Cropped:
        """Of a picture `[H, W]` all that is not `ground`; a copy."""
        other = picture != ground
        box = box_of(other) if other.any() else NOWHERE
        return Cropped(picture.shape, ground, box, picture[box].copy())

    @staticmethod
    def strokes(pixels: Pixels, mask: Mask) -> Cropped:
        """Pixels where a mask `[H, W]` is, transparent elsewhere: `[H, W, 4]`."""
        box = box_of(mask) if mask.any() else NOWHERE
        return Cropped((*mask.shape, 4), 0, box, masked_picture(pixels[box], mask[box]))

    def whole(self) -> npt.NDArray[Any]:
        """All of it."""
        found = np.full(self.shape, self.ground, self.part.dtype)
        found[self.box] = self.part
        return found


class Pictures(Mapping[str, bytes]):
    """Files with pictures, which are encoded when they are read: most are never."""

    def __init__(self, pictures: Mapping[str, Cropped]) -> None:
        self._pictures = dict(pictures)

    def __getitem__(self, name: str) -> bytes:
        return png(self._pictures[name].whole())

    def __iter__(self) -> Iterator[str]:
        return iter(self._pictures)

    def __len__(self) -> int:
        return len(self._pictures)


def patch(new: Pixels, old: Pixels) -> Pixels:
    """`[H, W, 4]`: `new` where it differs from `old`, transparent elsewhere."""
    return masked_picture(new, difference(new, old, 0))


def masked_picture(pixels: Pixels, mask: Mask) -> Pixels:
    """`[H, W, 4]`: pixels where a mask `[H, W]` is, transparent elsewhere."""
    found = np.zeros((*mask.shape, 4), np.uint8)
    found[mask, :3] = pixels[mask]
    found[mask, 3] = 255
    return found


def patched(old: Pixels, change: npt.NDArray[Any]) -> Pixels:
    """`old` with a patch on it."""
    if change.shape != (*old.shape[:2], 4):
        raise ArchiveError(
            f"a patch {list(change.shape)} does not fit a picture {list(old.shape)}; it cannot be trusted"
        )
    found: Pixels = np.where(change[..., 3:] > 0, change[..., :3], old)
    return found
