"""Convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from retouch.frontend.lowering.context import Context, Item, NoRule, instr, rule
from retouch.frontend.lowering.pending import Frames
from retouch.ir.expr import Expr
from retouch.ir.geometry import AxisMap, Geometry, Grid, conv_geometry
from retouch.ir.layout import Ref, image, like
from retouch.ir.value import Matrix, Value, Weight
from retouch.ops.depthwise import Depthwise
from retouch.ops.gemm import Gemm

BIAS = instr(("acc",), ("vector", 0), ("add", 0, 1))


def pair(size: Any) -> tuple[int, int]:
    """An ATen size list of one or two numbers as two."""
    sizes = [size] if isinstance(size, int) else list(size)
    return (int(sizes[0]), int(sizes[-1]))


def epilogue(context: Context, bias: Any, channels: int) -> tuple[Expr | None, tuple[Matrix, ...]]:
    """The expression that adds a bias, and its operand."""
    value = context.parameter(bias)
    return (BIAS, (context.channel_vector(value, channels),)) if value else (None, ())


def convolve(
    context: Context,
    node: Node,
    src: Ref,
    weight: Value,
    bias: Any,
    geometry: Geometry,
    groups: int,
    layout: str = "conv",
) -> Ref:
    """A convolution over an image with the given geometry."""
    outputs = weight.shape[0] if layout == "conv" else weight.shape[1] * groups
    out = context.value(node, geometry.outputs, src.value.batch, outputs)
    expr, vectors = epilogue(context, bias, outputs)
    depthwise = groups > 1 and groups == src.value.channels == outputs
    kind = Depthwise if depthwise else Gemm
    pointwise = geometry.is_identity
    context.add(
        kind(out, src.value, Weight(weight, layout, groups), None if pointwise else geometry, expr, (), vectors)
    )
    return image(out)


@rule("conv2d.default", "conv2d.padding")
def conv2d(context: Context, node: Node) -> Item:
    src, weight = context.image(context.arg(node, 0)), context.weight(context.arg(node, 1))
    kernel = weight.shape[2:]
    stride = pair(context.arg(node, 3, "stride", 1))
    padding, dilation = (context.arg(node, 4, "padding", 0), pair(context.arg(node, 5, "dilation", 1)))
    groups = int(context.arg(node, 6, "groups", 1))
    if padding == "same":
        axes = (src.value.map.height, src.value.map.width)
        total = [dilation[i] * (kernel[i] - 1) for i in range(2)]
        y, x = (
            AxisMap.conv(axes[i], kernel[i], 1, total[i] // 2, total[i] - total[i] // 2, dilation[i]) for i in range(2)
        )
        geometry = Geometry(y, x)
    else:
        sizes = (0, 0) if padding == "valid" else pair(padding)
        geometry = conv_geometry(src.value.map, kernel, stride, sizes, dilation)
    return convolve(context, node, src, weight, context.arg(node, 2, "bias"), geometry, groups)


@rule("conv3d.default")
def conv3d(context: Context, node: Node) -> Item:
    """Over a clip of one frame, which one slice of the kernel reads; the others read zeros."""
    item, weight = context.item(context.arg(node, 0)), context.weight(context.arg(node, 1))
    frames = item if isinstance(item, Frames) else Frames(context.ref(context.arg(node, 0)))
    batch, channels, count, *size = frames.ref.shape
    src, shape = frames.ref.view((batch, channels, *size)), node.meta["val"].shape
    if count != 1 or shape[2] != 1 or not src.is_image:
        raise NoRule("a clip of several frames")
    (_, *stride), (before, *padding), (step, *dilation) = (
        [int(n) for n in context.arg(node, *place)]
        for place in ((3, "stride", (1,) * 3), (4, "padding", (0,) * 3), (5, "dilation", (1,) * 3))
    )
    index, rest = divmod(frames.before + before, step)
    if rest or index >= weight.shape[2]:
        raise NoRule("a kernel that reads none but zeros")
    flat = (*weight.shape[:2], *weight.shape[3:])
    kernel = context.dense_call(node.name + ".frame", flat, weight.dtype, torch.select, (weight, 2, index))
    geometry = conv_geometry(src.value.map, flat[2:], stride, padding, dilation)
    groups = int(context.arg(node, 6, "groups", 1))
    return convolve(context, node, src, kernel, context.arg(node, 2, "bias"), geometry, groups).view(shape)


def transposed_geometry(
    grid: Grid, kernel: Sequence[int], stride: Any, padding: Any, extra: Any, dilation: Any
) -> Geometry:
    """Geometry of a transposed convolution; sizes as ATen gives them."""
    axes = (grid.height, grid.width)
    sizes = [pair(x) for x in (stride, padding, extra, dilation)]
    y, x = (AxisMap.conv_transpose(axes[i], kernel[i], *(size[i] for size in sizes)) for i in range(2))
    return Geometry(y, x)


@rule("convolution.default")
def convolution(context: Context, node: Node) -> Item:
    src, weight, bias, stride, padding, dilation, transposed, extra, groups = tuple[Any, ...](node.args)
    ref, value = context.image(src), context.weight(weight)
    if len(value.shape) != 4:
        raise NoRule("not a 2-D convolution")
    kernel = value.shape[2:]
    if transposed:
        geometry = transposed_geometry(ref.value.map, kernel, stride, padding, extra, dilation)
        return convolve(context, node, ref, value, bias, geometry, int(groups), "conv_transpose")
    geometry = conv_geometry(ref.value.map, kernel, pair(stride), pair(padding), pair(dilation))
    return convolve(context, node, ref, value, bias, geometry, int(groups))


@rule("conv_transpose2d.input")
def conv_transpose2d(context: Context, node: Node) -> Item:
    ref, weight = context.image(context.arg(node, 0)), context.weight(context.arg(node, 1))
    sizes = (context.arg(node, 3, "stride", 1), context.arg(node, 4, "padding", 0))
    extra, dilation = context.arg(node, 5, "output_padding", 0), context.arg(node, 7, "dilation", 1)
    geometry = transposed_geometry(ref.value.map, weight.shape[2:], *sizes, extra, dilation)
    groups = int(context.arg(node, 6, "groups", 1))
    return convolve(context, node, ref, weight, context.arg(node, 2, "bias"), geometry, groups, "conv_transpose")


def project(context: Context, node: Node, ref: Ref, weight: Value, bias: Any, layout: str) -> Ref:
    """A linear map of the channels; they are the last dimension of `ref`."""
    if not ref.channels_at(-1):
        raise NoRule("the last dimension is not the channels")
    outputs = weight.shape[0] if layout == "linear" else weight.shape[1]
    out = context.value(node, ref.value.map, ref.value.batch, outputs)
    expr, vectors = epilogue(context, bias, outputs)
    context.add(Gemm(out, ref.value, Weight(weight, layout), None, expr, (), vectors))
    return like(ref, out)


@rule("linear.default")
def linear(context: Context, node: Node) -> Item:
    weight = context.weight(context.arg(node, 1))
    return project(context, node, context.ref(context.arg(node, 0)), weight, context.arg(node, 2, "bias"), "linear")


@rule("addmm.default")
def addmm(context: Context, node: Node) -> Item:
    weight = context.weight(context.arg(node, 2))
    if node.kwargs.get("beta", 1) != 1 or node.kwargs.get("alpha", 1) != 1:
        raise NoRule("addmm with alpha or beta")
    return project(context, node, context.ref(context.arg(node, 1)), weight, context.arg(node, 0), "matmul")
