"""Two modules as one."""

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
