"""SIGE's published measurements, to set predictions beside.

Li et al., "Efficient Spatially Sparse Inference for Conditional GANs and Diffusion Models" (arXiv 2211.02048)
and its repository lmxyy/sige. Each is one forward pass in float32, without the one that records.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Update(NamedTuple):
    """An edit of a share of the image: arithmetic in GMAC, milliseconds by device."""

    edit: float
    gmacs: float
    ms: Mapping[str, float]


@dataclass(frozen=True)
class Published:
    """One network: arithmetic in GMAC and milliseconds by device of a dense run, and updates.

    image: pixels (H, W) that the arithmetic is of; for Stable Diffusion 1.4 twice the usual 512x512. policy: settings
    in which SIGE's for this network differ from the `paper` policy.
    """

    image: tuple[int, int]
    gmacs: float
    dense_ms: Mapping[str, float]
    updates: Sequence[Update]
    policy: Mapping[str, Any]

    def update(self, edit: float) -> Update | None:
        """The update of about that share of the image, within 5 %."""
        return next((each for each in self.updates if abs(each.edit - edit) <= 0.05 * each.edit), None)


def _read() -> Iterator[tuple[str, Published]]:
    for name, found in json.loads(Path(__file__).with_suffix(".json").read_text()).items():
        found |= {"image": tuple(found["image"]), "updates": [Update(**each) for each in found["updates"]]}
        yield name, Published(**found)


SIGE = dict(_read())
"""By network of `retouch bench`."""

REFERENCE = "rtx3090"
"""The device that every published time is of."""


def measured(published: Published | None, edit: float, device: str) -> dict[str, float | None]:
    """What SIGE's authors measured on a device for a network and an edit, as far as they did; times in ms."""
    update = published.update(edit) if published else None
    dense_ms = published.dense_ms.get(device) if published else None
    update_ms = update.ms.get(device) if update else None
    return {
        "gmacs_dense": published.gmacs if published else None,
        "gmacs_active": update.gmacs if update else None,
        "dense_ms": dense_ms,
        "update_ms": update_ms,
        "speedup": dense_ms / update_ms if dense_ms and update_ms else None,
    }
