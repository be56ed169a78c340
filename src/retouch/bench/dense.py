"""The dense baselines: the same module in each way that PyTorch runs it well, and by other engines."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from retouch.errors import OptionError
from retouch.kernels.devices import moved
from retouch.models import Inputs, tensor_of

EAGER, CHANNELS_LAST, COMPILED = "eager", "channels_last", "compiled"


def dense_runs(module: nn.Module, inputs: Inputs, compiled: bool = True) -> Mapping[str, Callable[[], Tensor]]:
    """Ways to run `module` on `inputs`, by kind, each ready to be called and timed.

    Channels last is another way where there are convolutions. `compiled` adds torch.compile with static shapes, over
    channels-last weights, which is its fastest setting on a CPU; on a GPU it replays CUDA graphs. Its first call
    compiles.
    """
    runs, last, given = {EAGER: partial(run_dense, module, inputs)}, module, inputs
    if any(weight.dim() == 4 for weight in module.parameters()):
        shared = {id(weight): weight for weight in module.parameters() if weight.dim() != 4}
        last = copy.deepcopy(module, dict(shared))
        to_channels_last(last)
        given = inputs.with_image(inputs.args[0].contiguous(memory_format=torch.channels_last))
        runs[CHANNELS_LAST] = partial(run_dense, last, given)
    if compiled:
        mode = "reduce-overhead" if inputs.args[0].is_cuda else "default"
        runs[COMPILED] = partial(run_dense, torch.compile(last, dynamic=False, mode=mode), given)
    return runs


def run_dense(module: Callable[..., object], inputs: Inputs) -> Tensor:
    """One run without gradients; the result's first tensor."""
    with torch.no_grad():
        return tensor_of(module(*inputs.args, **inputs.kwargs))


def to_channels_last(module: nn.Module) -> None:
    """Weights of two-dimensional convolutions channels last; those of others, as Conv3d's, stay."""
    for weight in module.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


# Other engines, which a person would take in the place of PyTorch

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Relative L2 distance from PyTorch's result by the type of weights: beyond it a peer computes something else."""

Run = Callable[[], Tensor]


def peer_runs(names: Sequence[str], module: nn.Module, inputs: Inputs) -> dict[str, Run]:
    """What `dense_runs` makes, by other engines: `openvino` (float32, bfloat16) or `onnxruntime` (float32), on the CPU.

    They read the module as `torch.export` captures it. Raises OptionError for one that is not installed, that has no
    such type or operation, or whose result is another.
    """
    if not names:
        return {}
    dtype = next(module.parameters()).dtype
    # Peers take arguments in float32 whatever they compute in.
    given = moved((inputs.args, inputs.kwargs), "cpu")
    exact = Inputs(*pytree.tree_map_only(Tensor, lambda t: t.float() if t.is_floating_point() else t, given))
    found: dict[str, Run] = {}
    truth = run_dense(module, inputs).float()
    for name in names:
        try:
            run = PEERS[name](copy.deepcopy(module).float().eval(), exact, dtype)
            distance = float((run().float() - truth).norm() / truth.norm())
        except ImportError as error:
            raise OptionError(f"--peer {name}: {error.name} is not installed; pip install 'retouch[peers]'") from error
        except (RuntimeError, torch.onnx.OnnxExporterError) as error:
            raise OptionError(f"--peer {name} cannot compute this network: {str(error).splitlines()[0]}") from error
        if not distance <= TOLERANCE[dtype]:
            raise OptionError(f"--peer {name} computes something else: it is {distance:.2g} from PyTorch's result")
        found[name] = run
    return found


def _openvino(module: nn.Module, inputs: Inputs, dtype: torch.dtype) -> Run:
    openvino = import_module("openvino")
    with torch.no_grad():
        captured = torch.export.export(module, inputs.args, inputs.kwargs)
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(openvino.convert_model(captured), "CPU", options)
    leaves = pytree.tree_leaves((inputs.args, inputs.kwargs))
    arrays = [leaf.numpy() for leaf in leaves if isinstance(leaf, Tensor)]
    return lambda: torch.from_numpy(compiled(arrays)[0])


def _onnxruntime(module: nn.Module, inputs: Inputs, dtype: torch.dtype) -> Run:
    if dtype != torch.float32:
        raise OptionError("--peer onnxruntime computes in float32; leave out --dtype")
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with torch.no_grad():
        made: Any = torch.onnx.export(module, inputs.args, kwargs=inputs.kwargs, dynamo=True)
    made.initialize_inference_session(partial(runtime.InferenceSession, sess_options=options, providers=[PROVIDER]))
    return lambda: tensor_of(made(*inputs.args, **inputs.kwargs))


PROVIDER = "CPUExecutionProvider"
PEERS: Mapping[str, Callable[[nn.Module, Inputs, torch.dtype], Run]]
PEERS = {"openvino": _openvino, "onnxruntime": _onnxruntime}
