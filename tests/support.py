"""Shared helpers: small modules around one operation, edits, and the checks every rule must pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import retouch
from captures import prepared, remembered
from retouch import Policy, Region, incremental
from retouch.plan.cost import KERNELS, Rate, Rates
from retouch.runtime.needs import needed

torch.set_num_threads(2)
incremental.capture = remembered(incremental.capture)
prepared()

EXACT = Policy("exact", dilate=0, dilate_grid=0, exact=True, crossover=1.0)
"""The `exact` preset without the crossover, so that updates of tiny networks take the sparse path."""

SHARED = Policy("shared", dilate=2, crossover=1.0)
"""Shared regions, all grids sparse, refreshed statistics, no crossover."""

BALANCED = replace(Policy.named("balanced"), keys_values="recorded")
"""The `balanced` preset with every row kept as it was computed, so that snapshots equal recordings bit for bit."""

PROBED = Policy("probed", dilate=1, stats="probed", probes=9, probe_distance=1, crossover=1.0)
"""Like `SHARED`, with probes that find room on tiny grids."""

BACKENDS = ("cpu", "reference")


def costs(**given: float | Rate) -> Rates:
    """Costs of kernels by name, and of Python; without any, only multiply-accumulates cost something."""
    python = {name: cost for name, cost in given.items() if isinstance(cost, float)}
    kernels = {f"{name} float32": Rate(call=0.0, mac=1e-9) for name in KERNELS}
    kernels |= {f"{name} float32": cost for name, cost in given.items() if isinstance(cost, Rate)}
    return Rates(kernels, **python)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fill(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights that keep activations near unit scale; nothing stays zero. In eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        value = torch.randn(tensor.shape, generator=generator)
        if "var" in name:
            value = value.abs() + 0.5
        elif tensor.dim() >= 2:
            value /= max(tensor[0].numel(), 1) ** 0.5
        else:
            value = 0.3 * value + (1.0 if name.endswith("weight") else 0.0)
        tensor.data.copy_(value)
    return module.eval().requires_grad_(False)


class Around(nn.Module):
    """A 3x3 convolution, then `function(self, x, *extra)`, then maybe another 3x3 convolution.

    The stem makes the update sparse work, the tail reads the operation's result as a halo.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        parts: dict[str, nn.Module] | None = None,
        channels: int = 8,
        tail: int = 0,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        for name, part in (parts or {}).items():
            self.add_module(name, part)
        self.function = function
        self.tail = nn.Conv2d(tail, 4, 3, padding=1) if tail else nn.Identity()

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        result: Tensor = self.tail(self.function(self, self.stem(x), *extra))
        return result


def around(
    function: Callable[..., Tensor],
    parts: Callable[[], dict[str, nn.Module]] | None = None,
    channels: int = 8,
    extra: Sequence[Tensor] = (),
    size: tuple[int, int] = (16, 12),
    tail: bool = False,
) -> nn.Module:
    """`Around` with random weights; the tail's width is that of the function's result."""
    made = fill(Around(function, parts() if parts else None, channels))
    if not tail:
        return made
    with torch.no_grad():
        width = made(noise(1, 3, *size), *(e[:1] for e in extra)).shape[1]
    return fill(Around(function, parts() if parts else None, channels, width))


def spot(height: int, width: int, top: int = 2, left: int = 3, size: int = 2) -> Tensor:
    """A mask bool `[height, width]` with a small square."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : top + size, left : left + size] = True
    return mask


def edit(x: Tensor, mask: Tensor, seed: int = 9) -> Tensor:
    """`x` with other values under `mask`, `[H, W]` or `[B, H, W]`."""
    cover = mask[None, None] if mask.dim() == 2 else mask[:, None]
    return torch.where(cover, noise(*x.shape, seed=seed).to(x.dtype), x)


def error(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value of `b`."""
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-12))


def state(recording: Any) -> list[Any]:
    """A copy of everything a recording holds."""
    held = [*recording.buffers.values(), *recording.states.values(), *recording.values.values()]
    return [t.clone() if isinstance(t, Tensor) else t for t in pytree.tree_leaves(held)]


def same(a: list[Any], b: list[Any]) -> bool:
    """Bit for bit equality of two states."""
    return len(a) == len(b) and all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(a, b, strict=True)
    )


def compile_all(module: nn.Module, args: Sequence[Any], policy: Policy = EXACT) -> list[Any]:
    """The module compiled for every backend."""
    return [retouch.compile(module, tuple(args), policy=policy, backend=b) for b in BACKENDS]


def check(
    module: nn.Module,
    args: Sequence[Tensor],
    masks: Sequence[Tensor],
    local: bool = True,
    sparse: bool = True,
    fallbacks: Sequence[str] | None = (),
    tolerance: float = 2e-6,
) -> None:
    """What holds for every network under `exact`, on every backend.

    `local`: no operation reads the whole map, so an update is a fresh recording bit for bit (on the
    reference backend, whose products are PyTorch's, within rounding). `sparse`: it computes less than
    everything. `fallbacks`: operations that run densely, by the name of their value; without any,
    every operation has a rule; None: any may.
    """
    with torch.no_grad():
        dense = module(*args)
    for net in compile_all(module, args):
        explained = net.explain()
        dense_ops = [f.split(":")[0] for f in explained.fallbacks]
        if fallbacks is not None:
            assert set(fallbacks) <= set(dense_ops), explained
            assert fallbacks or not dense_ops, explained
        y, recording = net.record(*args)
        assert (y.shape, y.dtype) == (dense.shape, dense.dtype)
        assert error(y, dense) < tolerance, net.backend.name
        declares_its_kernels(net)
        before = state(recording)
        for mask in masks:
            region, edited = Region.from_mask(mask), (edit(args[0], mask), *args[1:])
            updated = net.update(recording, region, *edited)
            fresh, _ = net.record(*edited)
            with torch.no_grad():
                assert error(updated, module(*edited)) < tolerance, net.backend.name
            if local and net.backend.name == "cpu":
                assert torch.equal(updated, fresh)
            else:
                assert error(updated, fresh) < tolerance, net.backend.name
            if sparse:
                part = net.explain(region)
                assert part.macs_active < part.macs_dense
            outside_unchanged(net, region, y, updated)
            recording.undo()
            assert same(before, state(recording)), net.backend.name


def declares_its_kernels(net: Any) -> None:
    """What a recording calls is what the operations say: a kernel that a backend lacks is warned of by them."""
    declared = {net.backend.kernel(name) for name in needed(net.program, net.policy)}
    assert all(call.host or call.function in declared for call in net.schedules.everything.steps)


def outside_unchanged(net: Any, region: Region, y: Tensor, updated: Tensor) -> None:
    """Positions outside the active mask are those of the recording, bit for bit."""
    if not any(o.ref for o in net.program.outputs):
        return
    outside = ~net.active_mask(region)
    if outside.shape == (len(updated), *updated.shape[2:]):
        kept = outside[:, None].expand_as(updated)
        assert torch.equal(updated[kept], y[kept]), net.backend.name


def check_rule(
    function: Callable[..., Tensor],
    batch: int,
    parts: Callable[[], dict[str, nn.Module]] | None = None,
    extra: Sequence[Tensor] = (),
    size: tuple[int, int] = (16, 12),
    channels: int = 8,
    **options: Any,
) -> None:
    """`check` of one operation: alone for one sample, between convolutions for two.

    With two samples there are also masks for each sample, and for the second alone.
    """
    module = around(function, parts, channels, extra, size, tail=batch > 1)
    args = (noise(batch, 3, *size, seed=1), *(e[:batch] for e in extra))
    masks = [spot(*size)]
    if batch > 1:
        corner = spot(*size, size[0] - 3, 0, 1)
        masks += [torch.stack([spot(*size), corner]), torch.stack([corner & False, corner])]
    check(module, args, masks, **options)
