"""Seconds of recording and editing a viewport, from what kernels cost, corrected by what was measured last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from retouch.editing.canvas.resample import Size
from retouch.editing.canvas.view import ViewSession
from retouch.incremental import Incremental
from retouch.plan import activity
from retouch.plan.region import Mask, Region, dilate

Work = Literal["record", "dense", "edit"]
SIDES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Squares of so much of a viewport's side are predicted; what lies between follows from these."""
MAC = 1e-11
"""Seconds of a multiply-accumulate where no costs of kernels are known, until something was measured."""


@dataclass(frozen=True)
class Curve:
    """Predicted seconds of all calls of a network in an edit: `seconds` for `shares` of the viewport, `whole` dense."""

    shares: tuple[float, ...]
    seconds: tuple[float, ...]
    whole: float

    @staticmethod
    def of(net: Incremental, calls: int, size: Size) -> Curve:
        """That of a network with so many calls in a viewport of a size (H, W)."""
        masks = [_square(side, size) for side in SIDES]
        times = [_seconds(net, calls, mask) for mask in masks]
        shares = (share(mask, net.policy.dilate, size) for mask in masks)
        return Curve(tuple(shares), tuple(min(each) for each in times), times[-1][1])


class Costs:
    """Of the viewports of one size, which have their networks in common; `session` is one that is not recorded."""

    def __init__(self, session: ViewSession, size: Size) -> None:
        self.size, calls = size, Counter(session.calls().values())
        self.curves = {name: Curve.of(net, calls[name], size) for name, net in session.networks().items()}
        self.dilate = next(iter(session.networks().values())).policy.dilate
        self._corrections: dict[Work, float] = {}

    @property
    def record(self) -> float:
        """Seconds of a recording."""
        return self._correction("record") * sum(curve.whole for curve in self.curves.values())

    def dense(self, steps: float) -> float:
        """Seconds of an edit that records nothing: two pictures are encoded, and a share of the steps is run."""
        whole = {name: curve.whole for name, curve in self.curves.items()}
        encoder, less = whole.get("encoder", 0.0), (1 - steps) * whole["denoiser"]
        return self._correction("dense") * (sum(whole.values()) + encoder - less)

    def edit(self, mask: Mask, steps: float = 1.0) -> float:
        """Seconds of an edit of a mask at the model's scale, of any size; a share of the recorded steps is run."""
        computed = share(mask, self.dilate, self.size)
        found = {name: float(np.interp(computed, each.shares, each.seconds)) for name, each in self.curves.items()}
        return self._correction("edit") * (sum(found.values()) - (1 - steps) * found["denoiser"])

    def follow(self, mask: Mask) -> float:
        """Seconds of taking over what others changed in a mask at the model's scale; the next edit does the rest."""
        encoder = self.curves.get("encoder")
        if encoder is None:
            return 0.0
        computed = share(mask, self.dilate, self.size)
        return self._correction("edit") * float(np.interp(computed, encoder.shares, encoder.seconds))

    def learn(self, took: Mapping[Work, tuple[float, float]]) -> None:
        """Correct what is predicted from now on by predicted and measured seconds, half of the way after the first."""
        self._corrections |= {
            work: self._correction(work) * (measured / predicted) ** (0.5 if work in self._corrections else 1.0)
            for work, (predicted, measured) in took.items()
            if predicted > 0
        }

    def _correction(self, work: Work) -> float:
        """That of other work as long as nothing of this was measured."""
        return self._corrections.get(work, next(iter(self._corrections.values()), 1.0))


def share(mask: Mask, border: int, size: Size) -> float:
    """Of a viewport, what a mask covers when it is grown by a border."""
    return min(1.0, float(dilate(np.pad(mask, border)[None], border).sum()) / (size[0] * size[1]))


def _square(side: float, size: Size) -> Mask:
    """In the middle of a viewport, with a part of its sides."""
    mask = np.zeros(size, np.bool_)
    height, width = (max(1, round(side * length)) for length in size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    mask[top : top + height, left : left + width] = True
    return mask


def _seconds(net: Incremental, calls: int, mask: Mask) -> tuple[float, float]:
    """Of all calls of a network: of the active rows for a new region, and of everything."""
    active = net.active(Region.from_mask(mask))
    decision = net.planner.choose(active, calls)
    if decision.sparse_ms is None or decision.whole_ms is None or decision.preparing_ms is None:
        return calls * MAC * activity.macs(net.plan, active), calls * MAC * net.macs
    return (calls * decision.sparse_ms + decision.preparing_ms) / 1e3, calls * decision.whole_ms / 1e3
