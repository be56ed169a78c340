"""What `refine` asks for: the stages in which an edit is bettered."""

from __future__ import annotations

from retouch.errors import OptionError

ENOUGH = 2.0
"""Grey levels: an edit with a smaller estimate of its error is not refined, unless it is asked for."""

STEP, DENSE = "step", "dense"
STAGES = {"off": (), STEP: (STEP,), DENSE: (STEP, DENSE)}
"""What is computed, in order, by the value of `refine`."""


def stages_of(refine: float | str | None) -> tuple[list[str], float | None]:
    """What `refine` asks for: the stages, and the error in grey levels below which none is needed. OptionError."""
    if isinstance(refine, int | float) and refine >= 0:
        return list(STAGES[DENSE]), float(refine)
    named = "off" if refine is None else refine
    if named not in STAGES:
        raise OptionError(f"refine is {', '.join(map(repr, STAGES))} or an error in grey levels, not {refine!r}")
    return list(STAGES[str(named)]), None
