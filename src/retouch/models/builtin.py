"""Trained models that are part of this package: diffusers pipelines in half precision."""

from __future__ import annotations

from pathlib import Path

PIPELINES = {f"builtin/{name}": Path(__file__).parent / name for name in ("emoji", "scenes", "scenes-lcm")}
"""Folders of built-in pipelines. `training/` makes them: emoji of 128x128 pixels, drawn after their names; scenes of
several emoji on a plain background, 256x256; the same distilled to four steps (LCM).
"""
