"""The networks that the invariants hold for, each built and compiled once per process."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from retouch import Policy, Region, compile, incremental, models
from retouch.models.registry import on_grid
from retouch.runtime.program_files import Lowered, kept
from support import noise


@dataclass(frozen=True, eq=False)
class Case:
    """A module, its arguments, and the pixels that masks have."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    size: tuple[int, int]

    @property
    def image(self) -> Tensor:
        image: Tensor = self.args[0]
        return image

    def edited(self, mask: Tensor, seed: int = 1) -> Case:
        """Other values under `mask` (pixels) in the image."""
        image = self.image
        cells = on_grid(mask, *image.shape[2:])
        other = noise(*image.shape[1:], seed=seed).to(image.dtype)
        return replace(self, args=(torch.where(cells, other, image), *self.args[1:]))

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The module's own result, in another precision if asked for."""
        module = deepcopy(self.module).to(dtype) if dtype else self.module

        def cast(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: cast(v) for k, v in value.items()}
            floats = isinstance(value, Tensor) and value.is_floating_point()
            return value.to(dtype) if dtype and floats else value

        with torch.no_grad():
            return models.tensor_of(module(*(cast(a) for a in self.args), **cast(self.kwargs)))

    def spot(self, top: float = 0.3, left: float = 0.55, size: float = 0.1) -> Tensor:
        """A mask with a square; all numbers are shares of the height."""
        mask = torch.zeros(self.size, dtype=torch.bool)
        scale = self.size[0]
        y, x, n = int(top * scale), int(left * scale), max(1, int(size * scale))
        mask[y : y + n, x : x + n] = True
        return mask


def edits(made: Case, count: int, seed: int) -> Iterator[tuple[Tensor, Case]]:
    """Random squares, the third over everything, each drawn over the ones before; masks and cases."""
    generator = torch.Generator().manual_seed(seed)
    for i in range(count):
        top, left = torch.rand(2, generator=generator).mul(0.85).tolist()
        mask = made.spot(top, left, 0.12 if i != 2 else 2.0)
        made = made.edited(mask, seed=10 + i)
        yield mask, made


WIDE = {"resnet-generator, full width": "resnet-generator", "taesd, full width": "taesd"}
LOCAL = ("taesd", "taesd, full width", "rrdbnet", "srvgg")
"""Networks without an operation that reads the whole map."""

NAMES = (*models.names(), *WIDE)
TEXT = tuple(n for n in models.names() if n in ("sd15-unet", "sdxl-unet", "sd3"))
TIMED = (*TEXT, "ddpm-256", "dit")


@cache
def case(name: str, dtype: torch.dtype = torch.float32) -> Case:
    """The network of that name with its example arguments."""
    if name in WIDE:
        module = models.get(WIDE[name]).build(dtype=dtype)
        return Case(module, (noise(1, 3, 48, 48).to(dtype),), {}, (48, 48))
    network = models.get(name)
    inputs = network.inputs(tiny=True, dtype=dtype)
    module = network.build(tiny=True, dtype=dtype)
    return Case(module, inputs.args, dict(inputs.kwargs), network.image_size(tiny=True))


@cache
def compiled(name: str, policy: str | Policy, backend: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """The compiled network; lowered once for all policies, as it does not change."""
    made = case(name, dtype)

    def once(module: nn.Module, signature: Any, asked: Any, device: Any, make: Any) -> Lowered:
        key = module, str(asked), device
        if key not in _lowered:
            _lowered[key] = kept(module, signature, asked, device, make)
        return _lowered[key]

    with patch.object(incremental, "kept", once):
        return compile(made.module, made.args, made.kwargs, policy=policy, backend=backend)


_lowered: dict[Any, Lowered] = {}


def record(net: Any, made: Case) -> tuple[Tensor, Any]:
    y, recording = net.record(*made.args, **made.kwargs)
    return models.tensor_of(y), recording


def update(net: Any, recording: Any, mask: Tensor, made: Case) -> Tensor:
    region = Region.from_mask(mask)
    return models.tensor_of(net.update(recording, region, *made.args, **made.kwargs))
