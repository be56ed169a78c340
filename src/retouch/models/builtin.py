"""Trained models that are part of this package: diffusers pipelines in half precision."""

from __future__ import annotations

from pathlib import Path

PIPELINES = {"builtin/emoji": Path(__file__).parent / "emoji"}
"""Folders of built-in pipelines. `training/` makes them: emoji of 128x128 pixels, drawn after their names."""
