"""Trained models that are part of this package: diffusers pipelines in half precision."""

from __future__ import annotations

from pathlib import Path

_NAMES = ("emoji", "emoji-256", "emoji-256-lcm", "emoji-dit")

PIPELINES = {f"builtin/{name}": Path(__file__).parent / name for name in _NAMES}
"""Folders of built-in pipelines, which `training/` made: emoji of 128x128 pixels, drawn after their names; emoji of
256x256 pixels; the same distilled to four steps (LCM); emoji of 128x128 pixels by a transformer (Stable Diffusion 3).
"""
