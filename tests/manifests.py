"""Manifests of session folders, altered with and without their checksum."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retouch import Policy
from retouch.editing.manifest import MANIFEST, checksum


def alter(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a manifest, with the checksum that then is right."""
    file = folder / MANIFEST
    body = json.loads(file.read_text())
    del body["checksum"]
    change(body)
    version = body.pop("format")
    file.write_text(json.dumps({"format": version, **body, "checksum": checksum(body)}))


def to_format_1(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda body: None) -> None:
    """Write a manifest as it was before it had a checksum, changed."""
    file = folder / MANIFEST
    body = {**json.loads(file.read_text()), "format": 1}
    del body["checksum"]
    for network in body["networks"].values():
        network["policy"] = repr(Policy(**network["policy"]))
    change(body)
    file.write_text(json.dumps(body, indent=1))
