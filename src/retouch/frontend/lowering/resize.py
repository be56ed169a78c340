"""Padding, resizing and pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from retouch.frontend.lowering.context import Context, Item, NoRule, instr, rule
from retouch.frontend.lowering.conv import pair
from retouch.frontend.lowering.heads import splits_heads, within_heads
from retouch.frontend.lowering.pending import Frames
from retouch.frontend.lowering.pooled import pooled
from retouch.frontend.lowering.views import move
from retouch.ir.geometry import AxisMap, Geometry, conv_geometry
from retouch.ir.layout import Ref, image
from retouch.ops.dense import named
from retouch.ops.pool import Pool

Taps = tuple[AxisMap, npt.NDArray[np.float32]]


def _pad(context: Context, node: Node, sizes: Sequence[int], mode: str, fill: float = 0.0) -> Item:
    """Padding of height and width, or of the channels of every head; of a clip of one frame, with frames of zeros, too.

    `sizes` are before and after for each dimension, the last one first.
    """
    ref = context.ref(context.arg(node, 0))
    last = len(ref.dims) - 1
    padded = {last - i // 2: sizes[i : i + 2] for i in range(0, len(sizes), 2) if any(sizes[i : i + 2])}
    for dim, edges in padded.items():
        if mode == "reflect" and max(edges) >= ref.shape[dim]:
            raise NoRule("reflection wider than the image")
    if mode == "constant" and len(padded) == 1 and splits_heads(ref, dim := next(iter(padded))):
        before, after = padded[dim]
        return within_heads(context, node, ref, dim, -before, before + ref.shape[dim] + after, fill)
    frames = padded.pop(2, None) if len(ref.dims) == 5 and not ref.dims[2] else None
    if frames and (mode != "constant" or fill or min(frames) < 0):
        raise NoRule("frames that are not zeros")
    maps = {dim: AxisMap.pad(ref.shape[dim], before, after, mode) for dim, (before, after) in padded.items()}
    moved = move(context, node, ref, maps)
    if frames:
        return Frames(moved, *frames)
    return _filled(context, node, ref, moved, sizes, fill) if fill and mode == "constant" else moved


@named
def border(shape: Sequence[int], sizes: Sequence[int], fill: float) -> Tensor:
    """Zeros `shape` with a border of `fill`."""
    return F.pad(torch.zeros(shape), list(sizes), value=fill)


def _filled(context: Context, node: Node, ref: Ref, moved: Ref, sizes: Sequence[int], fill: float) -> Ref:
    """A padded map, zero outside, plus a constant map of one channel that is zero inside."""
    spatial = ref.spatial_dims()
    inner, outer = ([x.shape[i] if i in spatial else 1 for i in range(len(x.dims))] for x in (ref, moved))
    constant = context.constant_call(node.name + ".border", outer, border, inner, tuple(sizes), fill)
    value = replace(moved.value, channels=1)
    one = Ref(
        value,
        tuple(d if i in spatial else () if any(a.axis == "c" for a in d) else d for i, d in enumerate(moved.dims)),
    )
    lifted = context.lift(node, constant, one)
    return context.map(node, moved, instr(("rows", 0), ("rows", 1), ("add", 0, 1)), [moved.value, lifted])


@rule("pad.default")
def pad(context: Context, node: Node) -> Item:
    mode, fill = str(context.arg(node, 2, "mode", "constant")), float(context.arg(node, 3, "value") or 0)
    return _pad(context, node, context.arg(node, 1), mode, fill)


@rule("constant_pad_nd.default")
def constant_pad(context: Context, node: Node) -> Item:
    return _pad(context, node, context.arg(node, 1), "constant", float(context.arg(node, 2, "value", 0)))


@rule("reflection_pad2d.default")
def reflection_pad(context: Context, node: Node) -> Item:
    return _pad(context, node, context.arg(node, 1), "reflect")


@rule("replication_pad2d.default")
def replication_pad(context: Context, node: Node) -> Item:
    return _pad(context, node, context.arg(node, 1), "replicate")


def _scales(context: Context, node: Node, position: int) -> tuple[float | None, float | None]:
    """Scale factors (height, width) when the resize was asked for by scale."""
    scales: Any = context.arg(node, position, "scale_factors")
    return (float(scales[0]), float(scales[1])) if scales else (None, None)


@rule("upsample_nearest2d.vec", "_upsample_nearest_exact2d.vec")
def nearest(context: Context, node: Node) -> Item:
    ref = context.image(context.arg(node, 0))
    height, width = node.meta["val"].shape[2:]
    sy, sx = _scales(context, node, 2)
    exact = "exact" in str(node.target)
    y, x = AxisMap.nearest(ref.shape[2], height, sy, exact), AxisMap.nearest(ref.shape[3], width, sx, exact)
    return context.remap(node, ref, Geometry(y, x))


def _positions(size: int, outputs: int, align: bool, scale: float | None) -> npt.NDArray[np.float32]:
    """Fractional input coordinate of each output, as PyTorch computes it."""
    out = np.arange(outputs, dtype=np.float32)
    if align:
        return out * np.float32((size - 1) / (outputs - 1) if outputs > 1 else 0.0)
    step = np.float32(1.0 / scale if scale else size / outputs)
    return (out + np.float32(0.5)) * step - np.float32(0.5)


def linear_taps(size: int, outputs: int, align: bool, scale: float | None) -> Taps:
    """Two taps of linear interpolation along an axis."""
    position = np.maximum(_positions(size, outputs, align, scale), 0)
    low = np.minimum(np.floor(position).astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    fraction = np.clip(position - low, 0, 1).astype(np.float32)
    return AxisMap(np.stack([low, high], 1), size), np.stack([1 - fraction, fraction], 1).astype(np.float32)


def cubic_taps(size: int, outputs: int, align: bool, scale: float | None) -> Taps:
    """Four taps of cubic convolution (Keys 1981, a = -0.75 as in PyTorch) along an axis."""
    position = _positions(size, outputs, align, scale)
    base = np.floor(position).astype(np.int64)
    offsets = np.arange(-1, 3)
    distance = np.abs(position[:, None] - (base[:, None] + offsets)).astype(np.float64)
    a = -0.75
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    weights = np.where(distance <= 1, near, far).astype(np.float32)
    return AxisMap(np.clip(base[:, None] + offsets, 0, size - 1), size), weights


def _resize(context: Context, node: Node, taps: Callable[[int, int, bool, float | None], Taps]) -> Item:
    ref = context.image(context.arg(node, 0))
    height, width = node.meta["val"].shape[2:]
    align = bool(context.arg(node, 2, "align_corners", False))
    sy, sx = _scales(context, node, 3)
    (y, wy), (x, wx) = taps(ref.shape[2], height, align, sy), taps(ref.shape[3], width, align, sx)
    out = context.value(node, Geometry(y, x).outputs, ref.value.batch, ref.value.channels)
    return image(context.add(Pool(out, ref.value, Geometry(y, x), (wy, wx))))


@rule("upsample_bilinear2d.vec")
def bilinear(context: Context, node: Node) -> Item:
    return _resize(context, node, linear_taps)


@rule("upsample_bicubic2d.vec")
def bicubic(context: Context, node: Node) -> Item:
    return _resize(context, node, cubic_taps)


def _pooled(context: Context, node: Node, ref: Ref, geometry: Geometry, weights: Any) -> Ref:
    if geometry.outputs.height != node.meta["val"].shape[2] or geometry.outputs.width != node.meta["val"].shape[3]:
        raise NoRule("pooling with a rounded-up size")
    out = context.value(node, geometry.outputs, ref.value.batch, ref.value.channels)
    return image(context.add(Pool(out, ref.value, geometry, weights)))


@rule("avg_pool2d.default")
def avg_pool(context: Context, node: Node) -> Item:
    ref = context.image(context.arg(node, 0))
    kernel = pair(context.arg(node, 1))
    stride = pair(context.arg(node, 2, "stride") or kernel)
    padding = pair(context.arg(node, 3, "padding", 0))
    counted, divisor = (context.arg(node, 5, "count_include_pad", True), context.arg(node, 6, "divisor_override"))
    if divisor is not None:
        raise NoRule("average pooling with its own divisor")
    geometry = conv_geometry(ref.value.map, kernel, stride, padding, (1, 1))
    return _pooled(context, node, ref, geometry, tuple(_average(a, bool(counted)) for a in (geometry.y, geometry.x)))


def _average(axis: AxisMap, counted: bool) -> npt.NDArray[np.float32]:
    valid = axis.table >= 0
    count = np.full(axis.outputs, axis.taps) if counted else valid.sum(1)
    return np.asarray(valid / count[:, None], np.float32)


@rule("max_pool2d.default")
def max_pool(context: Context, node: Node) -> Item:
    ref = context.image(context.arg(node, 0))
    kernel = pair(context.arg(node, 1))
    stride, padding = (pair(context.arg(node, 2, "stride") or kernel), pair(context.arg(node, 3, "padding", 0)))
    dilation = pair(context.arg(node, 4, "dilation", 1))
    return _pooled(context, node, ref, conv_geometry(ref.value.map, kernel, stride, padding, dilation), None)


@rule("adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default")
def adaptive_avg_pool(context: Context, node: Node) -> Item:
    ref = context.image(context.arg(node, 0))
    height, width = node.meta["val"].shape[2:]
    if height * width == 1:
        return pooled(context, node, ref, [2, 3])
    (y, wy), (x, wx) = _adaptive(ref.shape[2], height), _adaptive(ref.shape[3], width)
    return _pooled(context, node, ref, Geometry(y, x), (wy, wx))


def _adaptive(size: int, outputs: int) -> Taps:
    start = [i * size // outputs for i in range(outputs)]
    stop = [-(-(i + 1) * size // outputs) for i in range(outputs)]
    taps = max(b - a for a, b in zip(start, stop, strict=True))
    table, weights = np.full((outputs, taps), -1), np.zeros((outputs, taps), np.float32)
    for i, (a, b) in enumerate(zip(start, stop, strict=True)):
        table[i, : b - a], weights[i, : b - a] = np.arange(a, b), 1 / (b - a)
    return AxisMap(table, size), weights
