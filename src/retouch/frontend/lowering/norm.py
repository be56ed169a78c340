"""Normalisation: statistics of maps (group, instance), of rows (layer, RMS), or none (batch, in evaluation)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from retouch.frontend.lowering.context import Context, Item, NoRule, instr, rule
from retouch.frontend.lowering.heads import heads_over
from retouch.ir.layout import Ref
from retouch.ir.value import Matrix, Value
from retouch.ops.dense import named
from retouch.ops.moments import Moments

AFFINE = instr(("rows", 0), ("vector", 0), ("mul", 0, 1), ("vector", 1), ("add", 2, 3))


def _channels_second(ref: Ref) -> None:
    if len(ref.dims) < 2 or not ref.channels_at(1):
        raise NoRule("channels are not the second dimension")


def _affine(context: Context, node: Node, ref: Ref, folded: Value, samples: int) -> Ref:
    """`x * scale + shift` with both halves of `folded` `[S, 2C]`."""
    channels = ref.value.channels
    whole = Matrix(folded, (samples, 2 * channels), (0, 1), (samples, 2 * channels))
    halves = [whole.columns(0, channels), whole.columns(channels, channels)]
    return context.map(node, ref, AFFINE, [ref.value], halves)


def _map_statistics(context: Context, node: Node, ref: Ref, groups: int, weight: Any, bias: Any, eps: float) -> Ref:
    _channels_second(ref)
    producer = context.producers.get(ref.value)
    parts = (producer.pieces() if producer else ()) or (ref.value,)
    batch, channels = ref.value.batch, ref.value.channels
    out = Value(context.unique(node.name + ".moments"), (batch, 2 * channels), torch.float32)
    gamma, beta = context.parameter(weight), context.parameter(bias)
    context.add(Moments(out, parts, groups, eps, gamma, beta))
    return _affine(context, node, ref, out, batch)


@rule("group_norm.default")
def group_norm(context: Context, node: Node) -> Item:
    ref = context.ref(context.arg(node, 0))
    weight, bias = context.arg(node, 2, "weight"), context.arg(node, 3, "bias")
    eps = float(context.arg(node, 4, "eps", 1e-5))
    return _map_statistics(context, node, ref, int(context.arg(node, 1)), weight, bias, eps)


@rule("instance_norm.default")
def instance_norm(context: Context, node: Node) -> Item:
    x, weight, bias, running_mean, running_var, use_input_stats, _momentum, eps, _cudnn = tuple[Any, ...](node.args)
    ref = context.ref(x)
    if not use_input_stats:
        return _batch_affine(context, node, ref, weight, bias, running_mean, running_var, float(eps))
    return _map_statistics(context, node, ref, ref.value.channels, weight, bias, float(eps))


@named
def batch_norm_affine(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """float32 `[1, 2C]`: scale and shift of a batch norm in evaluation, computed in float64, which the CPU has."""
    device = mean.device
    scale = (var.cpu().double() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.cpu().double()
    shift = -mean.cpu().double() * scale
    if bias is not None:
        shift = shift + bias.cpu().double()
    return torch.cat([scale, shift]).float()[None].to(device)


def _batch_affine(
    context: Context, node: Node, ref: Ref, weight: Any, bias: Any, mean: Any, var: Any, eps: float
) -> Ref:
    _channels_second(ref)
    parameters = [context.parameter(argument) for argument in (mean, var, weight, bias)]
    shape = (1, 2 * ref.value.channels)
    out = context.dense_call(node.name + ".affine", shape, torch.float32, batch_norm_affine, (*parameters, eps))
    return _affine(context, node, ref, out, 1)


@rule("batch_norm.default")
def batch_norm(context: Context, node: Node) -> Item:
    x, weight, bias, mean, var, training, _momentum, eps, _cudnn = tuple[Any, ...](node.args)
    if training:
        raise NoRule("batch norm with the statistics of the batch")
    return _batch_affine(context, node, context.ref(x), weight, bias, mean, var, float(eps))


@rule("_native_batch_norm_legit_no_training.default")
def batch_norm_legit(context: Context, node: Node) -> Item:
    x, weight, bias, mean, var, _momentum, eps = tuple[Any, ...](node.args)
    return [_batch_affine(context, node, context.ref(x), weight, bias, mean, var, float(eps))]


def _row_statistics(context: Context, node: Node, name: str, shape: Any, weight: Any, bias: Any, eps: float) -> Ref:
    ref = context.ref(context.arg(node, 0))
    width, heads = int(shape[-1]), heads_over(ref, [len(ref.dims) - 1])
    if len(shape) > 1 or not (heads or ref.channels_at(-1)):
        raise NoRule("normalisation over more or fewer than the channels")
    code: list[tuple[Any, ...]] = [("rows", 0), (name, 0, 0, eps)]
    vectors: list[Matrix] = []
    for argument, op in ((weight, "mul"), (bias, "add")):
        value = context.parameter(argument)
        if value is not None:
            code += [("vector", len(vectors)), (op, len(code) - 1, len(code))]
            vectors.append(context.channel_vector(value, width))
    return context.map(node, ref, instr(*code), [ref.value], vectors, heads=heads or 1)


@rule("layer_norm.default")
def layer_norm(context: Context, node: Node) -> Item:
    weight, bias = context.arg(node, 2, "weight"), context.arg(node, 3, "bias")
    eps = float(context.arg(node, 4, "eps", 1e-5))
    return _row_statistics(context, node, "layer_norm", context.arg(node, 1), weight, bias, eps)


@rule("rms_norm.default")
def rms_norm(context: Context, node: Node) -> Item:
    eps = context.arg(node, 3, "eps")
    if eps is None:
        eps = torch.finfo(node.meta["val"].dtype).eps
    return _row_statistics(
        context, node, "rms_norm", context.arg(node, 1), context.arg(node, 2, "weight"), None, float(eps)
    )
