"""What editors of generators share: one network, compiled for every size that is opened."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

import retouch.incremental as incremental
from retouch.editing.archive import Archive, Progress
from retouch.editing.compiling import Compiling
from retouch.editing.editor import BaseEditor
from retouch.editing.gan.session import GeneratorSession
from retouch.editing.manifest import Manifest
from retouch.editing.recent import Recent
from retouch.kernels.devices import device_of
from retouch.plan.policy import Policy

SIZES = 4
"""The network compiled for so many sizes is kept for the next session."""

G = TypeVar("G", bound=GeneratorSession)
N = TypeVar("N", bound=nn.Module)


class GeneratorEditor(BaseEditor[G], Generic[G, N]):
    """Opens sessions of one generator.

    policy: as for `retouch.compile`. The rest: as for `BaseEditor`.
    """

    def __init__(
        self,
        network: N,
        *,
        policy: str | Policy = "balanced",
        backend: str = "auto",
        memory: int | None = None,
        device_memory: int | None = None,
        folder: str | Path | None = None,
        storage: str = "fp32",
        history: int | None = None,
        keep_module: bool = True,
        arithmetic: str = "float",
        map_weights: bool = False,
        name: str | None = None,
    ) -> None:
        self.module: N = network.eval()
        self.policy = Policy.named(policy)
        super().__init__(
            name, backend, memory, device_memory, folder, storage, history, keep_module, arithmetic, map_weights
        )
        self.dtype = next(network.parameters()).dtype
        self._compiled: Recent[tuple[int, int], incremental.Incremental] = Recent(SIZES)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return device_of(self.module)

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels that the network reads."""

    @abstractmethod
    def check_size(self, size: tuple[int, int]) -> None:
        """ImageError for a size (H, W) that the network does not take."""

    def _session(self, size: tuple[int, int], progress: Progress, **facts: Any) -> G:
        """A session without versions; `facts` are settings of its kind."""
        editor = {
            "policy": asdict(self.policy),
            "backend": self.backend,
            "dtype": str(self.dtype).removeprefix("torch."),
            **self.arithmetic_facts,
            **self._options(),
        }
        settings = {"model": self.name, "height": size[0], "width": size[1], **facts, "editor": editor}
        return self.sessions(self._net(size, progress), self._store(), settings)

    def _options(self) -> dict[str, Any]:
        """Further arguments that `from_pretrained` needs to make the same editor."""
        return {}

    def _restored(self, archive: Archive, manifest: Manifest, progress: Progress) -> G:
        settings = manifest.settings
        net = self._net((settings["height"], settings["width"]), progress)
        return self.sessions(net, self._store(manifest.storage), settings)

    def _net(self, size: tuple[int, int], progress: Progress) -> incremental.Incremental:
        """The network compiled for a size (H, W), of which `progress` is told; those of the last sizes are kept."""
        self.check_size(size)

        def compiled() -> incremental.Incremental:
            example = torch.zeros(1, self.channels, *size, dtype=self.dtype, device=self.device)
            with Compiling([self.module], progress).of(self.module):
                return incremental.compile(
                    self.module,
                    example,
                    policy=self.policy,
                    backend=self.backend,
                    arithmetic=self.arithmetic,
                    keep_module=self.keep_module,
                    map_weights=self.map_weights,
                )

        return self._compiled.get(size, compiled)
