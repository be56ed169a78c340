"""Redraws in lockstep: views of a larger picture that agree after every step where they overlap.

As Bar-Tal et al., "MultiDiffusion" (arXiv 2302.08113), section 4: at each step the latent of the larger picture is what
fits the predictions of all views best, which is their weighted mean. It is taken of the predictions, before the
scheduler's step, which so adds the noise of a stochastic scheduler once: the mean of several noises would be less.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from retouch.runtime.threads import one_thread

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Shared:
    """What a redraw has reached, to be agreed on with others.

    at: the step and the place in it. values: float32 `[1, C, h, w]`; inside: bool `[1, 1, h, w]`, where they count.
    mean: whether their mean is taken, or the value of the one view that sees most around a position.
    """

    at: tuple[int, int]
    values: Tensor
    inside: Tensor
    mean: bool


Stages = Generator[Shared, Tensor, R]
"""A redraw that is sent what was agreed on for each thing that it shares."""

Place = tuple[int, int]
"""Top and left of a view, in positions of a latent."""


@one_thread()
def together(redraws: Sequence[Stages[R]], agree: Callable[[Sequence[int], list[Shared]], Sequence[Tensor]]) -> list[R]:
    """The results of redraws. `agree` is asked for what those that have come to the same place go on with."""
    results: dict[int, R] = {}
    waiting: dict[int, Shared] = {}

    def go_on(number: int, agreed: Tensor | None) -> None:
        try:
            waiting[number] = next(redraws[number]) if agreed is None else redraws[number].send(agreed)
        except StopIteration as end:
            results[number] = end.value

    for number in range(len(redraws)):
        go_on(number, None)
    while waiting:
        first = min(shared.at for shared in waiting.values())
        group = sorted(number for number, shared in waiting.items() if shared.at == first)
        for number, agreed in zip(group, agree(group, [waiting.pop(number) for number in group]), strict=True):
            go_on(number, agreed)
    return [results[number] for number in range(len(redraws))]


def alone(redraw: Stages[R]) -> R:
    """The result of a redraw that has nothing to agree on."""
    return together([redraw], lambda _, found: [found[0].values])[0]


def agreed(shared: Sequence[Shared], places: Sequence[Place]) -> list[Tensor]:
    """What views at these places go on with: the same wherever they overlap and the values of several count.

    places: in positions of `values`. Where the values of one view count alone they stay, bit for bit.
    """
    weights = [_tent(*each.values.shape[2:]) * each.inside for each in shared]
    found = []
    for own, (top, left) in zip(shared, places, strict=True):
        height, width = own.values.shape[2:]
        offsets = [(down - top, right - left) for down, right in places]
        seen = [_moved(weight, *each, height, width) for weight, each in zip(weights, offsets, strict=True)]
        values = [_moved(other.values, *each, height, width) for other, each in zip(shared, offsets, strict=True)]
        mixed = torch.zeros_like(own.values)
        for share, value in zip(_shares(seen, own.mean), values, strict=True):
            mixed += share * value
        found.append(torch.where(own.inside, mixed, own.values))
    return found


def _shares(weights: Sequence[Tensor], mean: bool) -> list[Tensor]:
    """Parts of one by weight, or one for the first that has the most."""
    if mean:
        total = sum(weights, torch.zeros(())).clamp(min=1)
        return [weight / total for weight in weights]
    most, shares = torch.stack([*weights]).amax(0), []
    free = most > 0
    for weight in weights:
        shares.append((free & (weight == most)).float())
        free = free & (weight < most)
    return shares


def _tent(height: int, width: int) -> Tensor:
    """Weights `[1, 1, h, w]` that fall linearly towards the edges, where a view knows least of what is around."""
    sides = [torch.minimum(torch.arange(1, n + 1), torch.arange(n, 0, -1)).float() for n in (height, width)]
    return torch.minimum(sides[0][:, None], sides[1][None])[None, None]


def _moved(values: Tensor, down: int, right: int, height: int, width: int) -> Tensor:
    """Values `[1, C, h, w]` as another view of that size sees them, and 0 elsewhere."""
    frame = values.new_zeros(*values.shape[:2], height, width)
    target, source = [], []
    for by, there, here in ((down, values.shape[2], height), (right, values.shape[3], width)):
        first, last = max(0, by), min(here, there + by)
        target.append(slice(first, max(first, last)))
        source.append(slice(first - by, max(first, last) - by))
    frame[:, :, target[0], target[1]] = values[:, :, source[0], source[1]]
    return frame
