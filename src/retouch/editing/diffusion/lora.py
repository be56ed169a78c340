"""LoRA (Hu et al., arXiv 2106.09685) that is not fused, with a scale that is an input of the network.

So each edit may have its own: rows that it does not compute stay as they were recorded, with the scale of then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any

from torch import Tensor, nn

_swapping = RLock()


class Loras:
    """The LoRAs in modules that `peft` made, as they are now.

    scales: that of each as `set_adapters` takes it, 0 where it is switched off, the largest where blocks differ; none
    where they are fused, which are weights like others.
    """

    def __init__(self, modules: Iterable[nn.Module | None]) -> None:
        having = [module for module in modules if module is not None and getattr(module, "peft_config", None)]
        layers: list[Any] = [layer for module in having for layer in module.modules() if hasattr(layer, "lora_A")]
        if any(layer.merged for layer in layers):
            layers = []
        names = sorted({name for layer in layers for name in layer.scaling})
        found = {name: [_scale(layer, name) for layer in layers if name in layer.scaling] for name in names}
        self.scales = {name: max(scales) for name, scales in found.items()}
        self._shares = [(layer, {name: self._share(layer, name) for name in layer.scaling}) for layer in layers]

    def _share(self, layer: Any, name: str) -> float:
        """What the scale of the whole is multiplied by in a layer."""
        return float(layer.scaling[name] / self.scales[name] if self.scales[name] else _unit(layer, name))

    @contextmanager
    def at(self, scales: Mapping[str, float | Tensor]) -> Iterator[None]:
        """The modules with these scales in a block, for one thread at a time; then as they were."""
        with _swapping:
            before = [
                (layer, layer.scaling, layer._active_adapter, layer._disable_adapters) for layer, _ in self._shares
            ]
            try:
                for layer, shares in self._shares:
                    layer.scaling = {name: scales[name] * share for name, share in shares.items()}
                    layer._active_adapter, layer._disable_adapters = list(shares), False
                yield
            finally:
                for layer, *kept in before:
                    layer.scaling, layer._active_adapter, layer._disable_adapters = kept


def _unit(layer: Any, name: str) -> float:
    """What multiplies a LoRA of scale 1."""
    rank = layer.r[name]
    return float(layer.lora_alpha[name] / (math.sqrt(rank) if layer.use_rslora.get(name) else rank))


def _scale(layer: Any, name: str) -> float:
    is_on = name in layer.active_adapters and not layer.disable_adapters
    return float(layer.scaling[name] / _unit(layer, name)) if is_on else 0.0
