"""How an edit of a canvas can be made: candidates with predicted seconds and quality, and which one is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

from retouch.editing.canvas.costs import Costs
from retouch.editing.canvas.request import Request
from retouch.editing.canvas.resample import Scaling, Size
from retouch.editing.canvas.view import View
from retouch.editing.canvas.viewport import around, common, holds, hull, inside, margin, scales, shown_box, sides, tiles
from retouch.editing.images import Box
from retouch.errors import OptionError
from retouch.plan.region import Mask

Way = Literal["sparse", "new", "whole", "tiles", "dense"]
FLOOR = 0.5
"""Of the quality that an edit should have."""
CONTEXT, AROUND, DETAIL = 1 / 8, 1.5, 16
"""What should be seen on each side of a region: of a viewport's side, and where that is enlarged of the region's longer
side, as a model that sees a part of a thing alone draws a whole one (benchmarks/README.md has pictures). Latent
positions that the longer side should have.
"""
WORTH, ALIKE = 1.15, 1.05
"""So much longer may an edit take that leaves a recording to later ones than one that does not, and one that is better
than another.
"""


@dataclass(frozen=True)
class Candidate:
    """One way to make an edit.

    way: "sparse" in a viewport that is recorded, the one numbered `view`; "new": in one that is recorded first;
    "whole": in one of the whole canvas, recorded first; "tiles": in several that overlap, denoised together, recorded
    where they are not yet; "dense": in one that is not recorded.
    viewport: what is seen; tiles: the viewports that see it together.
    seconds: predicted, of which `record` for recordings that later edits find. context: the share that is there of what
    should be seen around the region, at most 1. detail: how well it is resolved, at most 1: by the model's positions
    across it, and by its pixels for one of the canvas.
    """

    way: Way
    viewport: Scaling
    seconds: float
    context: float
    detail: float
    view: int | None = None
    tiles: tuple[Scaling, ...] = ()
    record: float = 0.0

    @property
    def place(self) -> tuple[Way, Scaling]:
        """What it is, whatever is predicted of it."""
        return self.way, self.viewport

    @property
    def quality(self) -> float:
        """From 0 to 1: of context and detail what there is less of."""
        return min(self.context, self.detail)

    def __str__(self) -> str:
        rows, columns = self.viewport.box
        box = f"{columns.start},{rows.start} to {columns.stop},{rows.stop}"
        name = f"{self.way} in {self.view}" if self.view is not None else f"{len(self.tiles) or ''} {self.way}".strip()
        return (
            f"{name:<12}{box:<24}{self.viewport.scale:>6.3g}x{self.seconds:>9.3g} s   quality {self.quality:.2f} "
            f"(context {self.context:.2f}, detail {self.detail:.2f})"
        )


@dataclass(frozen=True)
class Plan:
    """The candidates of an edit, the one that is chosen, and why."""

    candidates: tuple[Candidate, ...]
    chosen: Candidate
    reason: str

    def __str__(self) -> str:
        lines = [f"{'*' if each is self.chosen else ' '} {each}" for each in self.candidates]
        return "\n".join([*lines, f"chosen: {self.reason}"])


@dataclass(frozen=True)
class Planner:
    """Plans edits of a canvas whose viewports a model sees at one size (H, W).

    factor: pixels of the model for a latent position. floor: the quality that an edit should have.
    """

    size: Size
    factor: int
    costs: Costs
    floor: float = FLOOR

    def plan(
        self,
        request: Request,
        canvas: Size,
        steps: float,
        views: Mapping[View, Scaling],
        missed: Callable[[View], Mask],
        edited: Sequence[Box] = (),
        alone: bool = False,
    ) -> Plan:
        """What a request comes to on a canvas (H, W) with views, where they are; a share of the recorded steps is run.

        missed: where a view is not where the canvas is, at the model's scale. edited: what was seen by edits that
        recorded nothing, where this one is to record what pays back. alone: only ways with one viewport that is
        recorded.
        """
        found = []

        def price(viewport: Scaling) -> tuple[float, float]:
            """Of an edit in a viewport, which is recorded first where it is not, and of that."""
            view = next((view for view, at in views.items() if at == viewport), None)
            if view is None:
                return self.costs.record + self._edit(viewport, request, steps), self.costs.record
            return self._following(viewport, request, steps, missed(view)), 0.0

        for view, at in views.items():
            if holds(at.box, request.box):
                found.append(self._candidate("sparse", at, *price(at), request, canvas, view=view.number))
        for scale in scales(self.size, canvas):
            viewport = around(request.box, scale, self.size, canvas)
            if holds(viewport.box, request.box):
                way: Way = "whole" if viewport.sides == canvas else "new"
                found.append(self._candidate(way, viewport, *price(viewport), request, canvas))
                found.append(self._candidate("dense", viewport, self.costs.dense(steps), 0.0, request, canvas))
        tiled = self._touched(request, canvas)
        if len(tiled) > 1 and not holds(around(request.box, 1.0, self.size, canvas).box, request.box):
            box = reduce(hull, (tile.box for tile in tiled))
            seconds, record = (sum(parts) for parts in zip(*map(price, tiled), strict=True))
            viewport = Scaling(box, sides(box), sides(box))
            found.append(self._candidate("tiles", viewport, seconds, record, request, canvas, tiled=tiled))
        if alone:
            found = [each for each in found if each.way not in ("tiles", "dense")]
        return self._chosen(tuple(found), sum(common(box, request.box) is not None for box in edited))

    def learn(self, chosen: Candidate, seconds: Mapping[str, float]) -> None:
        """Correct what is predicted from now on by what an edit took."""
        if chosen.tiles:
            return
        if chosen.way == "dense":
            self.costs.learn({"dense": (chosen.seconds, seconds["edit"])})
            return
        record = self.costs.record if "record" in seconds else 0.0
        edit = chosen.seconds - chosen.record, seconds["edit"] + seconds.get("follow", 0.0)
        self.costs.learn({"record": (record, seconds.get("record", 0.0)), "edit": edit})

    def _edit(self, viewport: Scaling, request: Request, steps: float) -> float:
        """Seconds of what a viewport that is recorded sees of a request."""
        box = common(viewport.box, request.box)
        if box is None:
            return 0.0
        inner = sides(shown_box(viewport, box))
        mask = Scaling(box, inner, inner).shown_mask(request.mask[inside(box, request.box)])
        return self.costs.edit(mask > 0, steps)

    def _following(self, viewport: Scaling, request: Request, steps: float, late: Mask) -> float:
        """`_edit` where others have changed something: the denoiser and the decoder compute that together with it."""
        if not late.any():
            return self._edit(viewport, request, steps)
        mask = viewport.shown_mask(request.mask_in(viewport.box)) > 0
        return self.costs.follow(late) + self.costs.edit(mask | late, steps)

    def _touched(self, request: Request, canvas: Size) -> tuple[Scaling, ...]:
        """The tiles with anything of a request in them."""
        found = []
        for tile in tiles(self.size, canvas, self.factor) if "max_error" not in request.options else ():
            box = common(tile.box, request.box)
            if box is not None and request.mask[inside(box, request.box)].any():
                found.append(tile)
        return tuple(found)

    def _candidate(
        self,
        way: Way,
        viewport: Scaling,
        seconds: float,
        record: float,
        request: Request,
        canvas: Size,
        view: int | None = None,
        tiled: tuple[Scaling, ...] = (),
    ) -> Candidate:
        longest = viewport.scale * max(sides(request.box))
        around = max(CONTEXT * min(self.size), AROUND * longest if viewport.scale > 1 else 0.0)
        context = min(1.0, margin(viewport, request.box, canvas) / around)
        if tiled:  # they overlap by a quarter: one of them sees enough around each pixel
            context = 1.0
        detail = min(1.0, viewport.scale, longest / self.factor / DETAIL)
        return Candidate(way, viewport, seconds, context, detail, view, tiled, record)

    def _chosen(self, found: tuple[Candidate, ...], before: int) -> Plan:
        """before: edits near that recorded nothing. What a recording would have saved them, one may take longer."""
        good = [each for each in found if each.quality >= self.floor]
        if not good:
            best = max(found, key=lambda each: (each.quality, -each.seconds))
            return Plan(found, best, f"of the best quality there is; none reaches {self.floor:g}")
        fastest = min(good, key=lambda each: each.seconds)

        def is_worth(each: Candidate) -> bool:
            saved = fastest.seconds - (each.seconds - each.record)
            return each.seconds - fastest.seconds <= max((WORTH - 1) * fastest.seconds, before * saved)

        kept = [each for each in good if each.way != "dense" and is_worth(each)]
        first = min(kept, key=lambda each: each.seconds, default=fastest)
        alike = [each for each in kept if each.seconds <= ALIKE * first.seconds]
        chosen = max(alike, key=lambda each: (each.quality, -each.seconds), default=fastest)
        also = "" if first is fastest else f" but for one that records nothing ({fastest.seconds:.3g} s)"
        better = "" if chosen is first else ", better than one that takes as long"
        return Plan(found, chosen, f"the fastest of those with a quality of at least {self.floor:g}{also}{better}")


def forced(plan: Plan, way: Candidate | str | None) -> Candidate:
    """The candidate that a caller wants: one of a plan, or the best of a way; None: the one that is chosen.

    Raises OptionError for what is not among them.
    """
    if way is None:
        return plan.chosen
    asked = way.place if isinstance(way, Candidate) else way
    fit = [each for each in plan.candidates if asked in (each.place, each.way)]
    if not fit:
        ways = ", ".join(dict.fromkeys(each.way for each in plan.candidates))
        raise OptionError(f"this edit cannot be made as {way!s}; there are {ways}")
    return max(fit, key=lambda each: (each.quality, -each.seconds))
