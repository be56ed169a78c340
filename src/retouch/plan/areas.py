"""Parts of a map whose rows read an input without a grid in a version of their own: texts by area."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from retouch.ir.geometry import Grid
from retouch.plan.region import Region


@dataclass(frozen=True, eq=False)
class Areas:
    """Areas of an update, and what their rows read in place of an input that all other rows read.

    argument: the input by its name, as of `forward`; rows attend to it.
    regions: on one grid, `[1, H, W]`; where they overlap the later wins. values: tensors like the argument, one for
    each region. others: the same for further arguments by their names, such as the mask of a text.
    """

    argument: str
    regions: tuple[Region, ...]
    values: tuple[Tensor, ...]
    others: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)

    @property
    def given(self) -> dict[str, tuple[Tensor, ...]]:
        """The versions of every argument."""
        return {self.argument: self.values, **self.others}

    @property
    def key(self) -> tuple[tuple[str, ...], tuple[Region, ...]]:
        """What a schedule depends on."""
        return tuple(self.given), self.regions

    def labels(self, grid: Grid) -> npt.NDArray[np.int32]:
        """The area of every position of a grid `[H, W]`: 1 for the first one, 0 for none.

        A position is in an area when any that it covers is, as for regions.
        """
        found = np.zeros((grid.height, grid.width), np.int32)
        for number, region in enumerate(self.regions, 1):
            found[region.on(grid).mask[0]] = number
        return found
