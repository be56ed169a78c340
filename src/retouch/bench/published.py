"""SIGE's published measurements, to set predictions beside.

Li et al., "Efficient Spatially Sparse Inference for Conditional GANs and Diffusion Models" (arXiv 2211.02048)
and its repository lmxyy/sige. Each is one forward pass in float32, without the one that records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Update:
    """An edit of a share of the image: arithmetic in GMAC, milliseconds by device."""

    edit: float
    gmacs: float
    ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """One network: arithmetic in GMAC and milliseconds by device of a dense run, and updates.

    image: pixels (H, W) that the arithmetic is of. policy: settings in which SIGE's for this network differ
    from the `paper` policy.
    """

    image: tuple[int, int]
    gmacs: float
    dense_ms: Mapping[str, float]
    updates: Sequence[Update]
    policy: Mapping[str, Any] = field(default_factory=dict)

    def update(self, edit: float) -> Update | None:
        """The update of about that share of the image, within 5 %."""
        return next((each for each in self.updates if abs(each.edit - edit) <= 0.05 * each.edit), None)

    def nearest(self, edit: float) -> Update:
        """The update whose time is published for the share of the image that is nearest by its factor."""
        timed = [each for each in self.updates if each.ms]
        return min(timed, key=lambda each: max(each.edit / edit, edit / each.edit))


def _sd(gmacs: float, ms: float, *updates: tuple[float, float, float], dilate: int = 5) -> Published:
    """Stable Diffusion 1.4. The arithmetic is that of 512x1024 pixels, twice the usual 512x512."""
    return Published(
        (512, 1024),
        gmacs,
        {"rtx3090": ms},
        [Update(edit, part, {"rtx3090": time}) for edit, part, time in updates],
        {"dilate": dilate, "dense_below": 0.0},
    )


SIGE = {
    "ddpm-256": Published(
        (256, 256),
        248,
        {"rtx3090": 37.5, "m1pro": 183},
        [
            Update(0.012, 33.4, {"rtx3090": 12.6, "m1pro": 39.5}),
            Update(0.0378, 40.6, {"rtx3090": 13.5}),
            Update(0.0719, 51.8),
            Update(0.115, 61.3, {"rtx3090": 16.3}),
            Update(0.155, 78.9),
        ],
    ),
    "gaugan": Published(
        (256, 512),
        281,
        {"rtx3090": 45.4, "m1pro": 151},
        [
            Update(0.0118, 15.3, {"rtx3090": 8.1, "m1pro": 29.1}),
            Update(0.0202, 19.3, {"rtx3090": 8.68}),
            Update(0.135, 69.8),
        ],
        {"dilate": 1, "dilate_grid": 2, "dense_below": 0.0},
    ),
    "sd15-unet": _sd(1854.8, 368.6, (0.017, 224.9, 51.2), (0.029, 352.6, 76.4), (0.116, 514.5, 95.0)),
    "sd-vae-encoder": _sd(1152.1, 115.2, (0.017, 39.2, 10.1), (0.029, 76.3, 14.5)),
    "sd-vae-decoder": _sd(
        2550.8, 235.0, (0.017, 154.2, 30.7), (0.029, 318.3, 45.6), (0.116, 343.5, 48.0), dilate=5 + 40
    ),
}
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
