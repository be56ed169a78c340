"""Weights of published checkpoints: read without running code, spectral norm folded, every tensor accounted for."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from retouch.errors import RetouchError

MAX_BYTES = 8 << 30
SHOWN = 5


class WeightFileError(RetouchError, ValueError):
    """A file of weights that is missing, cut, of another kind, or made for another network."""


def read(file: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file or in a PyTorch checkpoint (weights only: no code is run).

    Raises WeightFileError for a file that is missing, too large, broken, or holds anything but named tensors.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise WeightFileError(f"{file} is larger than {MAX_BYTES >> 30} GB")
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightFileError(
            f"{file} holds more than tensors and would run code when it is loaded; save its state_dict() alone"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightFileError(f"{file} cannot be read: {reason}") from error
    if not isinstance(state, dict) or not all(_named(*item) for item in state.items()):
        raise WeightFileError(f"{file} does not hold named tensors, but a {type(state).__name__} of other things")
    return state


def _named(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided


def folded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With spectral norms (Miyato et al., arXiv 1802.05957) multiplied into the weights they divide.

    `torch.nn.utils.spectral_norm` keeps `weight_orig` and the vectors `weight_u` and `weight_v`.
    """
    found = {}
    for name, tensor in state.items():
        if name.endswith(".weight_orig"):
            base = name.removesuffix("_orig")
            try:
                u, v = state[base + "_u"], state[base + "_v"]
            except KeyError as error:
                raise WeightFileError(f"{base} has a spectral norm without {error}") from error
            if tensor.dim() < 2 or u.shape != tensor.shape[:1] or v.shape != tensor.flatten(1).shape[1:]:
                shapes = " and ".join(str(list(each.shape)) for each in (u, v))
                raise WeightFileError(f"{base} is {list(tensor.shape)}, but its spectral norm has vectors of {shapes}")
            found[base] = tensor / torch.dot(u, torch.mv(tensor.flatten(1), v))
        elif not name.endswith((".weight_u", ".weight_v", ".num_batches_tracked")):
            found[name] = tensor
    return found


def fill(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy tensors into the parameters and buffers of the same names.

    Raises WeightFileError naming those that are missing, extra, of another shape, not floats or not finite;
    the module is then unchanged.
    """
    wanted = {n: t for n, t in module.state_dict().items() if not n.endswith(".num_batches_tracked")}
    shapes = [
        f"{name} is {list(state[name].shape)} and should be {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    floats = [name for name in wanted if name in state and state[name].is_floating_point()]
    problems = {
        "missing": sorted(wanted.keys() - state.keys()),
        "not part of the network": sorted(state.keys() - wanted.keys()),
        "of another shape": shapes,
        "not floats": [name for name in wanted if name in state and not state[name].is_floating_point()],
        "not finite": [name for name in floats if not state[name].isfinite().all()],
    }
    text = "; ".join(f"{what}: {_listed(names)}" for what, names in problems.items() if names)
    if text:
        raise WeightFileError(f"the checkpoint does not fit; {text}")
    module.load_state_dict(state, strict=False)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
