"""What the programs here share: pipelines with random weights, clocks, and how figures are told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from retouch.models import pipelines

Json = Annotated[Path | None, typer.Option("--json", help="Write the figures there as well.")]
RED = (214, 40, 57)


def seconds(call: Callable[..., Any], *values: Any, **options: Any) -> float:
    """Of one call."""
    start = time.perf_counter()
    call(*values, **options)
    return time.perf_counter() - start


def built(name: str, dtype: str, tiny: bool) -> Any:
    """A pipeline as it runs densely at its best."""
    pipe = pipelines.get(name).build(tiny).to(getattr(torch, dtype))
    for part in (pipe.unet, pipe.vae):
        part.to(memory_format=torch.channels_last)
    return pipe


def told(found: Mapping[str, Any], file: Path | None = None) -> None:
    """Print one line for each figure, and write all of them."""
    for name, value in found.items():
        print(f"{name:26} {value:.4g}" if isinstance(value, float) else f"{name:26} {value}")
    if file:
        file.write_text(json.dumps(found, indent=1))
