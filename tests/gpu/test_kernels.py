"""Every compiled kernel on the GPU against the reference of its spec."""

from copy import deepcopy
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from kernels.cases import assert_close
from retouch.kernels.protocol import handles
from retouch.kernels.triton.backend import KERNELS, Triton
from retouch.ops.spec import Draw
from retouch.ops.specs import SPECS

RUNS = [
    pytest.param(SPECS[name], case, dtype, id=f"{name}-{case}-{str(dtype).removeprefix('torch.')}")
    for name in KERNELS
    for case in SPECS[name].cases
    for dtype in SPECS[name].dtypes(Triton.dtypes)
]
SEEDS = range(4)


def there(argument, device):
    """An argument of a reference on the device, with its strides; index tables stay, as backends send them."""
    if isinstance(argument, Tensor) and argument.dtype != torch.int32:
        return torch.empty_strided(argument.shape, argument.stride(), dtype=argument.dtype, device=device).copy_(
            argument
        )
    if isinstance(argument, tuple | list):
        return type(argument)(there(each, device) for each in argument)
    if is_dataclass(argument):
        return replace(argument, **{f.name: there(getattr(argument, f.name), device) for f in fields(argument)})
    return argument


def tensors(arguments):
    return [x for x in pytree.tree_leaves(arguments) if isinstance(x, Tensor)]


@pytest.mark.parametrize(("spec", "case", "dtype"), RUNS)
def test_agrees_with_the_reference(kernels, spec, case, dtype):
    for seed in SEEDS:
        arguments, bound = spec.cases[case](Draw(seed), dtype), spec.tolerance[dtype]
        wanted = deepcopy(arguments)
        if bound and wanted[0].itemsize == 2:
            wanted = (wanted[0].float(), *wanted[1:])
        spec.reference(*wanted)
        found = there(arguments, kernels.device)
        kernels.kernel(spec.name)(*handles(kernels, found))
        for number, (a, b) in enumerate(zip(tensors(found), tensors(wanted), strict=True)):
            if bound and number == 0:
                assert_close(a.cpu(), b, bound)
            else:
                assert torch.equal(a.cpu(), b), f"seed {seed}"
