"""Checksums of parameters, computed where they are and read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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


def sampler(tensors: Sequence[Tensor], stride: int, device: torch.device) -> Callable[[], int]:
    """A function of the contents: a checksum of one of `stride` lines of 64 bytes of each tensor, and of its end.

    The tensors must stay where they are; only those with gaps between their numbers are looked up in every call.
    """
    flat = [_in_order(t).view(torch.uint8) for t in tensors]
    views = [f.data_ptr() == t.data_ptr() for t, f in zip(tensors, flat, strict=True)]
    found = [part for f, view in zip(flat, views, strict=True) if view for part in _lines(f, stride)]
    loose = [t for t, view in zip(tensors, views, strict=True) if not view]

    def sampled() -> int:
        parts = [*found, *(part for t in loose for part in _lines(_in_order(t).view(torch.uint8), stride))]
        if not all(part.device == device for part in parts):
            parts = [part.to(device) for part in parts]
        whole, short = ([part for part in parts if part.dim() == dim] for dim in (2, 1))
        words = [_as_words(torch.cat(some).reshape(-1)) for some in (whole, short) if some]
        return int(_checksum(torch.cat(words))) if words else 0

    return sampled


def _in_order(tensor: Tensor) -> Tensor:
    """All numbers as they lie in memory: a view unless there are gaps between them."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.detach().permute(order).reshape(-1)


def _words(tensor: Tensor) -> Tensor:
    flat = _in_order(tensor)
    return flat.view(_INTEGERS.get(flat.element_size(), torch.uint8))


def _as_words(data: Tensor) -> Tensor:
    """Bytes as int32, with zeros at the end."""
    return F.pad(data, (0, -len(data) % 4)).view(torch.int32)


def _lines(data: Tensor, stride: int) -> Iterator[Tensor]:
    """Views of the sampled lines uint8 `[*, 64]`, or of less than a line, `[n]`."""
    count = len(data) // LINE
    if count:
        yield data[: count * LINE].view(count, LINE)[::stride]
        yield data[-LINE:][None]
    elif len(data):
        yield data


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
