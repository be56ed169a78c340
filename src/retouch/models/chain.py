"""Modules that are made of others."""

from __future__ import annotations

from torch import Tensor, nn


class Chain(nn.Module):
    """Runs `first`, then `second`: tensor in, tensor out."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        """`second(first(x))`."""
        result: Tensor = self.second(self.first(x))
        return result


class OneFrame(nn.Module):
    """Runs a network of clips `[B, C, 1, H, W]` on a picture `[B, C, H, W]`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """The only frame of the result."""
        result: Tensor = self.module(x[:, :, None])[:, :, 0]
        return result
