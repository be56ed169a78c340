"""Versions of a session, and what an edit that makes one gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from retouch.editing.images import Pixels
from retouch.editing.manifest import Entry, folder_name
from retouch.plan.region import Region
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.state.layers import Layer


@dataclass(frozen=True, eq=False)
class Version:
    """One state of a session. `revision` counts the refinements that took its place, in a folder that servers share
    from a number of each claim's own.

    `parent` is the number of the version that it was made from (None: the first), `added` are the layers that it added
    to that one's snapshots, by the snapshot's name. `saved` are the layers that its folder holds, by the snapshot's
    name and with their files: what lies above the nearest ancestor that has any. `name` is what somebody called it.
    `tensors` holds `image` uint8 `[H, W, 3]` and what the kind of session needs; `facts` are plain data. `drawn` are
    files with what the edit was asked, from which it is made again where its layers were dropped; None: it cannot be.
    """

    number: int
    snapshots: Mapping[str, Snapshot] = field(repr=False)
    tensors: Mapping[str, Tensor] = field(repr=False)
    facts: Mapping[str, Any]
    added: Sequence[tuple[str, Layer]] = field(repr=False)
    files: Mapping[str, Any] = field(default_factory=dict, repr=False)
    parent: int | None = None
    name: str | None = None
    revision: int = 0
    drawn: Mapping[str, bytes] | None = field(default=None, repr=False)
    saved: Sequence[tuple[str, str]] = field(default=(), repr=False)

    @staticmethod
    def of(
        entry: Entry,
        snapshots: Mapping[str, Snapshot],
        tensors: Mapping[str, Tensor],
        added: Sequence[tuple[str, Layer]],
        drawn: Mapping[str, bytes] | None,
    ) -> Version:
        """The version of an entry of a manifest."""
        told = entry.facts, added, entry.files, entry.parent, entry.name, entry.revision
        return Version(entry.number, snapshots, tensors, *told, drawn, entry.layers)

    def dropped(self) -> Version:
        """The same without its layers."""
        return replace(self, snapshots={}, added=())

    @property
    def folder(self) -> str:
        """The name of its folder where the session is saved."""
        return folder_name(self.number, self.revision)

    @property
    def pixels(self) -> Pixels:
        """The image, uint8 `[H, W, 3]`; a copy."""
        return self.tensors["image"].numpy().copy()

    @property
    def nbytes(self) -> int:
        """Bytes of what this version added."""
        return sum(layer.nbytes for _, layer in self.added) + sum(t.nbytes for t in self.tensors.values())


class Estimate(Protocol):
    """How far an edit may be from what the dense model makes of it."""

    @property
    def error(self) -> float:
        """The estimate in grey levels; it may be computed when it is first asked for."""


@dataclass(frozen=True, eq=False)
class Edited:
    """The result of an edit: the image, its region in pixels, and seconds by what they were spent on."""

    image: Image.Image
    region: Region
    seconds: dict[str, float]
    estimate: Estimate | None = field(default=None, repr=False)

    @property
    def error(self) -> float | None:
        """An estimate of how far the image is from what the dense model makes of the edit: the root mean square
        difference inside the region in grey levels. None where nothing is known to estimate it from.

        The first look costs what its kind of session says; the edit itself does not wait for it.
        """
        return self.estimate.error if self.estimate else None

    @property
    def changed(self) -> bool:
        """False when the edit changed nothing."""
        return bool(self.region.mask.any())
