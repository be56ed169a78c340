"""The kernel of a backend, on whichever device, against the reference of its spec."""

from copy import deepcopy
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from kernels.cases import assert_close
from retouch.kernels.protocol import handles
from retouch.ops.spec import Draw
from retouch.ops.specs import SPECS

HOST = torch.device("cpu")


def runs(names, dtypes):
    """Spec, case and dtype of all kernels of these names, for a backend that computes in some dtypes."""
    return [
        pytest.param(spec, case, dtype, id=f"{spec.name}-{case}-{str(dtype).removeprefix('torch.')}")
        for spec in SPECS.values()
        if spec.name in names
        for case in spec.cases
        for dtype in spec.dtypes(dtypes)
    ]


def tensors(arguments):
    return [x for x in pytree.tree_leaves(arguments) if isinstance(x, Tensor)]


def there(argument, device):
    """A copy of an argument on a device, with its strides; index tables stay, as backends send them."""
    if isinstance(argument, Tensor) and argument.dtype != torch.int32:
        shape, strides = argument.shape, argument.stride()
        return torch.empty_strided(shape, strides, dtype=argument.dtype, device=device).copy_(argument)
    if isinstance(argument, tuple | list):
        return type(argument)(there(each, device) for each in argument)
    if is_dataclass(argument):
        return replace(argument, **{f.name: there(getattr(argument, f.name), device) for f in fields(argument)})
    return argument


def after(kernels, spec, arguments):
    """Copies of the arguments after the kernel of a backend."""
    copied = deepcopy(arguments) if kernels.device == HOST else there(arguments, kernels.device)
    kernels.kernel(spec.name)(*handles(kernels, copied))
    return copied


def check(kernels, spec, case, dtype, seed):
    """Compare with the reference, which does not round a result that may be off; returns the arguments, and after."""
    arguments, bound = spec.cases[case](Draw(seed), dtype), spec.tolerance[dtype]
    wanted = deepcopy(arguments)
    if bound and wanted[0].itemsize == 2:
        wanted = (wanted[0].float(), *wanted[1:])
    spec.reference(*wanted)
    found = after(kernels, spec, arguments)
    for number, (a, b) in enumerate(zip(tensors(found), tensors(wanted), strict=True)):
        if bound and number == 0:
            assert_close(a.cpu(), b, bound)
        else:
            assert torch.equal(a.cpu(), b)
    return arguments, found
