"""How much around an edit is computed: one value object, with named presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from retouch.errors import RetouchError

KEYS_VALUES = ("recorded", "int8", "recomputed", "auto")
"""What becomes of the keys and values of self-attention."""


class PolicyError(RetouchError, ValueError):
    """There is no such policy, or its numbers make no sense."""


@dataclass(frozen=True)
class Policy:
    """How an edit spreads.

    dilate: pixels of the mask's own grid by which an edit is grown, in every direction.
    dilate_grid: positions by which it is grown again on every smaller grid.
    margin: positions of a latent that the denoiser of a diffusion session computes around those that an edit changes.
        Without them the rim of what changes is computed from surroundings that do not know of it, at every step again.
    dense_below: grids whose height is below this fraction of the largest grid's are computed whole.
    stats: norm statistics, "recorded" (those of the original), "refreshed" (old active rows subtracted,
        new ones added: exact statistics of the updated map) or "probed" (refreshed, and the rows that are
        not computed are moved as a few scattered ones are, which are).
    probes: at most so many scattered rows of every grid, one in each cell of a regular partition.
    probe_distance: positions between a probe and the active rows.
    text: rows of texts that attend to the picture along with it (joint attention), "recomputed" with every edit, or
        "recorded": those of the original as long as no input without a grid changes; a number k: recomputed in every
        k-th call of a network in an edit, its first among them, and recorded in the others.
    keys_values: of self-attention, which every update reads whole: "recorded" as rows; "int8", such rows with scales in
        snapshots, whatever the type of others; "recomputed" from the rows that linear layers make them of,
        half as many, which are kept instead, in snapshots also as int8; "auto": "recomputed" where they are most of a
        recording, as in transformers, else "int8".
    exact: follow the receptive field value by value instead; the result equals a fresh recording.
    crossover: share of the arithmetic from which an update computes everything; None: when that is predicted to
        be faster (see `retouch.plan.choose`).
    """

    name: str = "custom"
    dilate: int = 5
    dilate_grid: int = 1
    margin: int = 0
    dense_below: float = 0.0
    stats: str = "refreshed"
    probes: int = 16
    probe_distance: int = 4
    text: str | int = "recomputed"
    keys_values: str = "recorded"
    exact: bool = False
    crossover: float | None = None

    def __post_init__(self) -> None:
        if self.stats not in ("recorded", "refreshed", "probed"):
            raise PolicyError(f"stats is 'recorded', 'refreshed' or 'probed', not {self.stats!r}")
        if self.text not in ("recomputed", "recorded") and not (type(self.text) is int and self.text > 1):
            raise PolicyError(f"text is 'recomputed' or 'recorded', or a number above 1, not {self.text!r}")
        if self.keys_values not in KEYS_VALUES:
            raise PolicyError(f"keys_values is one of {', '.join(map(repr, KEYS_VALUES))}, not {self.keys_values!r}")
        if self.exact and self.text != "recomputed":
            raise PolicyError("an exact policy needs recomputed texts: recorded ones are those of the original")
        if self.probes < 1 or self.probe_distance < 0:
            raise PolicyError("probes is at least 1 and probe_distance at least 0")
        if self.exact and self.stats != "refreshed":
            raise PolicyError("an exact policy needs refreshed statistics: recorded ones are those of the original")
        if min(self.dilate, self.dilate_grid, self.margin) < 0:
            raise PolicyError("dilate, dilate_grid and margin count positions and cannot be negative")
        if not 0 <= self.dense_below <= 1 or (self.crossover is not None and not 0 < self.crossover <= 1):
            raise PolicyError("dense_below and crossover are fractions between 0 and 1")

    def of_call(self, number: int) -> Policy:
        """That of one call of a network in an edit, counted from 0."""
        if isinstance(self.text, str):
            return self
        return replace(self, text="recorded" if number % self.text else "recomputed")

    @staticmethod
    def named(name: str | Policy, **changes: Any) -> Policy:
        """The preset of that name (paper, balanced, fast or exact), or a policy, with other settings where they are not
        None.
        """
        if not isinstance(name, Policy) and name not in PRESETS:
            raise PolicyError(f"unknown policy {name!r}; presets are {', '.join(PRESETS)}")
        found = name if isinstance(name, Policy) else PRESETS[name]
        wanted = {key: value for key, value in changes.items() if value is not None}
        return replace(found, **wanted) if wanted else found


PRESETS = {
    "paper": Policy("paper", dense_below=0.25, stats="recorded"),
    "balanced": Policy("balanced", margin=1, dense_below=0.0625, stats="probed", probe_distance=2, keys_values="auto"),
    "fast": Policy("fast", stats="recorded", keys_values="int8"),
    "exact": Policy("exact", dilate=0, dilate_grid=0, exact=True),
}
