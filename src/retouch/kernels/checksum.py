"""Checksums of parameters, computed where they are and read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LINE = 64
CHUNK = 1 << 22
ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 divided by the golden ratio
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(tensors: Sequence[Tensor], device: torch.device) -> list[int]:
    """A checksum of the contents of each tensor."""
    if not tensors:
        return []
    found: list[int] = torch.stack([_checksum(_words(t).to(device)) for t in tensors]).tolist()
    return found


def sample(tensors: Sequence[Tensor], stride: int, device: torch.device) -> int:
    """A checksum of one of `stride` lines of 64 bytes of each tensor, and of its last 64 bytes."""
    lines = [part.to(device) for t in tensors for part in _lines(_in_order(t).view(torch.uint8), stride)]
    return int(_checksum(torch.cat(lines).view(torch.int32).reshape(-1))) if lines else 0


def _in_order(tensor: Tensor) -> Tensor:
    """All numbers as they lie in memory: a view unless there are gaps between them."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.detach().permute(order).reshape(-1)


def _words(tensor: Tensor) -> Tensor:
    flat = _in_order(tensor)
    return flat.view(_INTEGERS.get(flat.element_size(), torch.uint8))


def _lines(data: Tensor, stride: int) -> Iterator[Tensor]:
    """The sampled lines uint8 `[*, 64]`."""
    count = len(data) // LINE
    if count:
        yield data[: count * LINE].view(count, LINE)[::stride]
        yield data[-LINE:][None]
    else:
        yield F.pad(data, (0, LINE - len(data)))[None]


def _checksum(words: Tensor) -> Tensor:
    """int64 `[]`: the sum of integers, each times an odd number that its place gives, modulo 2^64.

    So a change of one of them always changes the sum.
    """
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for start in range(0, len(words), CHUNK):
        part = words[start : start + CHUNK].long()
        factor = torch.arange(start + 1, start + 1 + len(part), device=words.device) * ODD
        total += (part * ((factor ^ (factor >> 29)) | 1)).sum()
    return total
