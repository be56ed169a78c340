"""Words per area: the rows of each read its own texts, those outside all of them the session's.

As in regional prompting by attention (Chen et al., arXiv 2411.02395; for U-Nets Balaji et al., "eDiff-I", arXiv
2211.01324, section 4.3): the network runs once with the texts of all areas, and cross-attention is masked, so that a
position reads the text of its area alone. All else (convolutions, self-attention, norms) sees one picture, and what is
made of a text as a whole (pooled embeddings, a part of the time embedding) is made of the session's.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from retouch.editing.calls import run_whole
from retouch.incremental import Incremental
from retouch.ir.geometry import Grid
from retouch.models.extras import diffusers
from retouch.plan.areas import Areas

WORDS, MASK = "encoder_hidden_states", "encoder_attention_mask"
"""The arguments of a network with what it reads of texts `[B, S, C]`, and which of it are words `[B, S]`."""


def run_dense(net: Incremental, *args: Any, areas: Areas | None = None, **kwargs: Any) -> Any:
    """The own result of a module, which reads the texts of areas, if there are some and it attends to them apart."""
    if areas is not None and MASK in areas.others:
        return run_whole(net, *args, **{**kwargs, **_of_all(net, areas, kwargs)})
    with ExitStack() as hooks:
        if areas is not None:
            masked = _Masked(areas, {grid.size: grid for grid in net.program.grids()}, get_ident())
            for module in net.module.modules():
                if isinstance(module, diffusers().models.attention_processor.Attention):
                    hooks.callback(module.register_forward_pre_hook(masked, with_kwargs=True).remove)
        return run_whole(net, *args, **kwargs)


def _of_all(net: Incremental, areas: Areas, given: dict[str, Any]) -> dict[str, Tensor]:
    """The texts of all areas, one after the other, and a mask of which position reads what."""
    grid = next(op.out.map for op in net.program.ops if op.attended)
    texts, words = (torch.cat([given[name], *areas.given[name]], 1) for name in (WORDS, MASK))
    owners = torch.arange(1 + len(areas.values)).repeat_interleave(given[WORDS].shape[1])
    labels = torch.from_numpy(areas.labels(grid)).flatten()
    hidden = (labels[:, None] != owners) | (words == 0)[:, None]
    return {WORDS: texts, MASK: torch.zeros(hidden.shape).masked_fill(hidden, -10000.0).to(texts)}


@dataclass(frozen=True)
class _Masked:
    """Gives an attention over a text those of all areas, and a mask of who reads which; in one thread."""

    areas: Areas
    grids: dict[int, Grid]
    thread: int

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given: Any = kwargs.get(WORDS)
        if given is None or get_ident() != self.thread:
            return None
        text, *others = given if isinstance(given, tuple) else (given,)  # with what IP-Adapters read
        rows: Tensor = args[0] if args else kwargs["hidden_states"]
        texts = torch.cat([text, *(value.to(text) for value in self.areas.values)], 1)
        owners = torch.arange(1 + len(self.areas.values)).repeat_interleave(text.shape[1])
        labels = torch.from_numpy(self.areas.labels(self.grids[rows.shape[1]])).flatten()
        bias = torch.zeros(len(labels), len(owners)).masked_fill(labels[:, None] != owners, -torch.inf)
        mask = bias.to(rows).expand(len(rows), -1, -1)
        return args, {**kwargs, WORDS: (texts, *others) if others else texts, "attention_mask": mask}
