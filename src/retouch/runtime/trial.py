"""What int8 costs each product of a network: how far it moves what the network returns, for its example inputs. And
what rounding to the type of the weights costs, beside which that is to be seen.

The errors of products are small and add up like noise, so that what one does to the output is, to first order, its own
error times the gradient of the output there: one run and one backward pass tell it of all products at once, and of all
results that are rounded. How far a product's own result is off says little, as much of a network hardly matters for
what it returns.

What was found is kept in the user's cache folder, for the same program, weights and inputs.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from retouch.errors import FallbackWarning
from retouch.ir.program import Op, Program
from retouch.kernels import Backend
from retouch.ops.copy import spread, spread_values
from retouch.ops.int8_gemm import TOP
from retouch.passes.arithmetic import Tried
from retouch.runtime.blocks import Block, StoreError, read
from retouch.runtime.cache_files import CacheFiles

FILES = CacheFiles("trials", ".trials.safetensors", 1 << 24)

ROUNDED = 0.21
"""The relative error of a rounded number (root of the mean square, sizes spread evenly over an octave) in units of its
type's epsilon.
"""

Example = tuple[tuple[Any, ...], dict[str, Any]]

Found = tuple[dict[str, float], float]
"""The errors of products by the names of their weights, and that of rounding."""

_CHANNELS: Mapping[Callable[..., Tensor], tuple[int, int]] = {
    F.linear: (-1, 1), F.conv1d: (1, 1), F.conv2d: (1, 1), F.conv3d: (1, 1),
    F.conv_transpose1d: (1, 0), F.conv_transpose2d: (1, 0), F.conv_transpose3d: (1, 0),
}  # fmt: skip
"""Functions with the dimensions that are the channels they read, of the input and of the weight."""

_EXACT = {torch.cat, torch.stack, F.pad, F.interpolate, F.dropout, F.relu, Tensor.contiguous, Tensor.clone, Tensor.to}
"""Functions that round nothing, beside views."""


def int8_errors(
    program: Program, products: Sequence[Op], module: nn.Module, example: Example, backend: Backend
) -> Tried:
    """How far each product of a program moves what the module returns when it is in int8, and rounding to its own type
    does. Products of which nothing is known are not there.

    example: arguments of the module. One that is the same everywhere tells nothing; noise stands for it, always the
    same. The module runs once, with memory for a backward pass through its activations. A FallbackWarning where there
    is no such pass.
    """
    read = {op.out: op.product.weight.value for op in products if op.product}
    names = {made: program.constants[weight] for made, weight in read.items() if weight in program.constants}
    weights = {name: tensor for name, tensor in module.named_parameters() if name in set(names.values())}
    args, kwargs = pytree.tree_map(_telling, example)
    given = [x.detach().contiguous() for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    key = {
        "version": version("retouch"),
        "program": hashlib.blake2b(str(program).encode(), digest_size=16).hexdigest(),
        "weights": backend.fingerprint([x.detach().contiguous() for x in module.parameters()]),
        "inputs": backend.fingerprint(given),
    }
    found = _read(key)
    if found is None:
        try:
            found = _measured(module, args, kwargs, weights)
        except RuntimeError as error:
            warnings.warn(
                f"no layer of {type(module).__name__} is in int8: which could be is told by a backward pass, and that "
                f"fails: {error}. Ask for another arithmetic, or leave out what has no gradient",
                FallbackWarning,
                stacklevel=2,
            )
            return Tried({})
        _write(key, found)
    errors, rounding = found
    return Tried({value: errors[name] for value, name in names.items() if name in errors}, rounding)


class _Noise(TorchFunctionMode):
    """Notes what the errors of products with some weights do to the output, by name, and what rounding does, in a
    backward pass.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = {id(weight): name for name, weight in weights.items()}
        self.squares: dict[str, float] = defaultdict(float)
        self.rounding = 0.0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not (_is_float(result) and result.requires_grad):
            return result
        same = func in _EXACT or result._is_view() or any(result is x for x in args)
        if result.dtype.itemsize == 2 and (func in _CHANNELS or not same):
            finite = result.detach().nan_to_num(0.0, 0.0, 0.0)  # infinite ones, of masks, are not rounded
            rounding = finite.mul_(ROUNDED * torch.finfo(result.dtype).eps)
            result.register_hook(lambda gradient: self._note_rounding(gradient, rounding))
        if func in _CHANNELS and len(args) > 1 and id(args[1]) in self.names:
            with torch.no_grad():
                (source, weight), (channels, inputs) = args[:2], _CHANNELS[func]
                tried = func(_rows_in_int8(source, channels), _in_int8(weight, inputs), *args[2:], **(kwargs or {}))
                others = [d for d in range(result.dim()) if d != channels % result.dim()]
                error = (tried.float() - result.float()).square().mean(others, keepdim=True).sqrt()
            result.register_hook(lambda gradient: self._note(self.names[id(weight)], gradient, error))
        return result

    def _note(self, name: str, gradient: Tensor, error: Tensor) -> None:
        self.squares[name] += _moved(gradient, error)

    def _note_rounding(self, gradient: Tensor, error: Tensor) -> None:
        self.rounding += _moved(gradient, error)


def _moved(gradient: Tensor, error: Tensor) -> float:
    return float((gradient.float() * error).square().sum())


def _measured(module: nn.Module, args: Any, kwargs: Any, weights: Mapping[str, Tensor]) -> Found:
    with torch.inference_mode(False), torch.enable_grad():
        leaves, spec = pytree.tree_flatten((args, kwargs))
        leaves = [x.clone().requires_grad_() if _is_float(x) else x for x in leaves]
        inner, named = pytree.tree_unflatten([x * 1 if _is_float(x) else x for x in leaves], spec)
        with _Noise(weights) as noise:
            returned = module(*inner, **named)
        results = [x for x in pytree.tree_leaves(returned) if _is_float(x) and x.requires_grad]
        norm = sum(float(x.detach().float().square().sum()) for x in results)
        if not norm:
            return {}, 0.0
        generator = torch.Generator().manual_seed(0)
        signs = [(torch.randint(0, 2, x.shape, generator=generator) * 2 - 1).to(x) for x in results]
        torch.autograd.grad(results, [x for x in leaves if _is_float(x)], signs, allow_unused=True)
    return {name: (square / norm) ** 0.5 for name, square in noise.squares.items()}, (noise.rounding / norm) ** 0.5


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _telling(x: Any) -> Any:
    if not _is_float(x) or x.dim() < 2 or (x != x.flatten()[0]).any():
        return x
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)


def _rows_in_int8(x: Tensor, channels: int) -> Tensor:
    """A map as products in int8 read it."""
    last = x.movedim(channels, -1)
    rows = spread_values(spread(last.reshape(-1, last.shape[-1])))
    return rows.reshape(last.shape).movedim(-1, channels).to(x.dtype)


def _in_int8(weight: Tensor, inputs: int) -> Tensor:
    """Weights as `retouch.ops.int8_gemm.Levels` has them."""
    scales = weight.float().abs().amax(inputs, keepdim=True) / TOP
    steps = torch.where(scales > 0, scales, 1)
    return ((weight.float() / steps).round() * steps).to(weight.dtype)


def _read(key: dict[str, Any]) -> Found | None:
    """What a file holds; None where there is none that can be read."""
    file = FILES.file(key)
    if not file.is_file():
        return None
    try:
        block = read(file)
        names, (rounding, *errors) = block.notes["names"], block.tensors["errors"].tolist()
        if block.notes["key"] != key or len(names) != len(errors):
            raise StoreError(f"{file} is damaged")
    except (StoreError, KeyError, ValueError):
        file.unlink(missing_ok=True)
        return None
    return dict(zip(names, errors, strict=True)), rounding


def _write(key: dict[str, Any], found: Found) -> None:
    errors, rounding = found
    content = {"errors": torch.tensor([rounding, *errors.values()], dtype=torch.float64)}
    with suppress(StoreError, OSError):  # no room: later starts measure again
        FILES.write(FILES.file(key), Block.of(content, {"key": key, "names": list(errors)}))
