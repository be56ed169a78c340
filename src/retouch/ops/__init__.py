"""Rows operations, one file each: node, `exact` region rule, cost, kernel calls and reference kernel.

`reference` in each file is the definition of the kernel of that name in plain PyTorch; every other backend
is tested against it. Reference kernels take row matrices as tensors `[rows, channels]` and index tables as
int32 tensors `[M]` or `[M, T]`, in which -1 reads a row of zeros; `None` stands for the identity.
"""
