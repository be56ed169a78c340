"""What a diffusion pipeline is to a session: networks to record, what each reads, and pixels as latents and back.

A pipeline itself is never changed: its modules are compiled, its schedulers copied.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import retouch.incremental as incremental
from retouch.editing.archive import Progress, silent
from retouch.editing.compiling import Compiling
from retouch.editing.diffusion.adapters import Adapters, Features
from retouch.editing.diffusion.guides import UNGUIDED, Guides
from retouch.editing.images import MAX_PIXELS
from retouch.editing.recent import Recent
from retouch.errors import RetouchError
from retouch.incremental import Incremental
from retouch.ir.layout import Layout
from retouch.kernels.devices import device_of, moved
from retouch.plan.policy import Policy

ADDED = "added_cond_kwargs"
"""The argument of a U-Net with what it reads beside texts."""

SIZES = 4
"""Compiled networks of so many sizes are kept for the next session."""


class PipelineError(RetouchError, ValueError):
    """A pipeline that editing does not support, or a size, prompt or class that it cannot take."""


@contextmanager
def loading(what: str, name: str | Path) -> Iterator[None]:
    """PipelineError for whatever diffusers raises in a block that loads `what` from `name`."""
    try:
        yield
    except PipelineError:
        raise
    except (OSError, ValueError, RuntimeError, AttributeError, KeyError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PipelineError(f"no {what} can be loaded from {str(name)!r}: {reason}") from error


@dataclass(frozen=True)
class Conditioning:
    """What an image is conditioned on: the texts, their embeddings, the scale of guidance, the class and the guides.

    features: what is made of the control images, once that is computed. distilled: whether the network reads the scale
    as an input (Meng et al., arXiv 2210.03142).
    """

    prompt: str | None = None
    negative: str | None = None
    guidance: float = 1.0
    inputs: tuple[tuple[str, Any], ...] = ()
    class_label: int | None = None
    distilled: bool = False
    guides: Guides = UNGUIDED
    features: Features = ()

    @property
    def guided(self) -> bool:
        """True when every step runs the network with and without the texts (classifier-free guidance)."""
        return self.prompt is not None and self.guidance > 1.0 and not self.distilled

    @property
    def asked(self) -> tuple[str | None, str | None, int | None, Guides]:
        """Prompt, negative prompt, class and guides."""
        return self.prompt, self.negative, self.class_label, self.guides


@dataclass(frozen=True)
class Networks:
    """The compiled networks of a pipeline at one size; encoder and decoder of latent models only.

    controls: what runs once for each control image.
    """

    denoiser: Incremental
    encoder: Incremental | None = None
    decoder: Incremental | None = None
    controls: dict[str, Incremental] = field(default_factory=dict)

    def named(self) -> dict[str, Incremental]:
        """The networks there are, by name."""
        found = {"denoiser": self.denoiser, "encoder": self.encoder, "decoder": self.decoder, **self.controls}
        return {name: net for name, net in found.items() if net is not None}


class Model(ABC):
    """The networks of a pipeline, and what passes between them.

    factor: pixels of an image for each position of a latent, in height and in width. packed: positions of what the
        decoder reads for each of a latent, likewise. keep_module, arithmetic, map_weights: as for `retouch.compile`.
    reads_text: whether the denoiser is conditioned on texts. inpaints: whether it reads a mask and what is outside.
    refers: whether it reads the picture that is edited, whole. shown: whether the words are read with a picture, an
    image prompt, which is the one opened where no other is given.
    classes: how many classes there are if it is conditioned on one, infinite where any number is one.
    """

    factor = packed = 1
    keep_module = True
    arithmetic = "float"
    map_weights = False
    reads_text = False
    inpaints = False
    refers = False
    shown = False
    classes: float = 0

    def __init__(self, pipe: Any, policy: Policy, backend: str) -> None:
        self.pipe, self.policy, self.backend = pipe, policy, backend
        self.dtype: torch.dtype = next(self.denoiser.parameters()).dtype
        self._compiled: Recent[tuple[Any, ...], Networks] = Recent(SIZES)
        self._compiling = Compiling()

    @property
    @abstractmethod
    def denoiser(self) -> nn.Module:
        """The network that is run at every step."""

    @property
    def adapters(self) -> Adapters:
        """Those that the pipeline has now."""
        return Adapters(self.pipe)

    # Sizes

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of a latent."""

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Height and width must be multiples of this many pixels."""

    @property
    @abstractmethod
    def default_size(self) -> tuple[int, int]:
        """Height and width in pixels that the networks were trained for."""

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of a latent `[1, C, h, w]` for pixels (H, W)."""
        return (1, self.channels, size[0] // self.factor, size[1] // self.factor)

    def check_size(self, size: tuple[int, int]) -> None:
        """PipelineError unless the networks divide the size (H, W)."""
        height, width = size
        if height * width > MAX_PIXELS:
            raise PipelineError(f"an image of {width}x{height} pixels is larger than {MAX_PIXELS // 10**6} megapixels")
        if height % self.multiple or width % self.multiple or not height or not width:
            fit = [max(1, round(n / self.multiple)) * self.multiple for n in size]
            raise PipelineError(
                f"an image of {width}x{height} pixels does not fit: width and height must be multiples of "
                f"{self.multiple}; crop or resize it, to {fit[1]}x{fit[0]} for example"
            )

    def schedule(self, size: tuple[int, int], steps: int) -> dict[str, Any]:
        """What the scheduler's `set_timesteps` is told beside the number of steps, for pixels (H, W)."""
        return {}

    # Networks

    def networks(self, size: tuple[int, int], conditioning: Conditioning, progress: Progress = silent) -> Networks:
        """The compiled networks for pixels (H, W); those of the last sizes are kept. PipelineError for other sizes.

        progress: told of those that are compiled, which takes seconds, in modules.
        """
        self.check_size(size)
        read = (tuple(each.shape) for each in pytree.tree_leaves(conditioning.inputs) if isinstance(each, Tensor))
        key = (*size, conditioning.guided, *self.adapters.key, *self.layouts(conditioning).items(), *read)

        def make() -> Networks:
            self._compiling = Compiling(self.modules, progress)
            try:
                return self.compiled(size, conditioning)
            finally:
                self._compiling = Compiling()

        return self._compiled.get(key, make)

    @property
    def modules(self) -> list[nn.Module]:
        """What `compiled` compiles."""
        return [self.denoiser]

    @abstractmethod
    def compiled(self, size: tuple[int, int], conditioning: Conditioning) -> Networks:
        """The networks, compiled for pixels (H, W)."""

    def compile_denoiser(self, size: tuple[int, int], conditioning: Conditioning) -> Incremental:
        """The denoiser, compiled for pixels (H, W)."""
        x = torch.zeros(self.latent_shape(size), dtype=self.dtype)
        inputs = self.arguments(self.extended(x), torch.ones(1), conditioning)
        return self.compile(self.denoiser, layouts=self.layouts(conditioning), **inputs)

    def layouts(self, conditioning: Conditioning) -> dict[str, Layout]:
        """Those of arguments of the denoiser that are maps without being images."""
        return {}

    def compile_controls(self, size: tuple[int, int]) -> dict[str, Incremental]:
        """What runs once for each control image, compiled for pixels (H, W)."""
        adapters = self.adapters
        black = adapters.blank(size).controls
        reads = dict(zip(adapters.controls, map(adapters.control_input, adapters.controls, black), strict=True))
        return {name: self.compile(module, reads[name]) for name, module in adapters.once().items()}

    def compile(
        self, module: nn.Module, *args: Any, layouts: Mapping[str, Layout] | None = None, **kwargs: Any
    ) -> Incremental:
        """A module compiled with the editor's policy and backend.

        For all sessions alike: what int8 costs its layers is measured on noise, not on what the first one shows.
        """
        args, kwargs = moved(pytree.tree_map(_noise, (args, kwargs)), device_of(module))
        with self._compiling.of(module):
            return incremental.compile(
                module.eval(),
                args,
                kwargs,
                layouts=layouts,
                policy=self.policy,
                backend=self.backend,
                arithmetic=self.arithmetic,
                keep_module=self.keep_module,
                map_weights=self.map_weights,
            )

    def steered(
        self, controls: Mapping[str, Incremental], conditioning: Conditioning, call: Callable[..., Any]
    ) -> Conditioning:
        """With what is made of its control images; `call` runs a network, given its name, itself and what it reads."""
        adapters, pictures = self.adapters, conditioning.guides.controls
        reads = [adapters.control_input(*each) for each in zip(controls, pictures, strict=True)] if controls else []
        found = [call(name, net, read) for (name, net), read in zip(controls.items(), reads, strict=True)]
        return replace(conditioning, features=tuple((f,) if isinstance(f, Tensor) else tuple(f) for f in found))

    # One evaluation of the denoiser

    def arguments(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Those of `inputs`, and the scales of adapters where there are some."""
        scales = {name: torch.tensor(scale) for name, scale in conditioning.guides.scales}
        return {**self.inputs(x, time, conditioning), **({"scales": scales} if scales else {})}

    @abstractmethod
    def inputs(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Arguments of the denoiser for `x` `[1, C, h, w]`, extended, at a time step `[1]`."""

    def output(self, result: Any, conditioning: Conditioning) -> Tensor:
        """float32 prediction `[1, C, h, w]` from what the denoiser returned, guided (arXiv 2207.12598)."""
        found: Tensor = result[0].float()
        if not conditioning.guided:
            return found
        without, with_texts = found.chunk(2)
        return without + conditioning.guidance * (with_texts - without)

    def extended(self, x: Tensor, mask: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """`x` with further channels that the denoiser reads: the mask of what is repainted and the rest's latent, or
        that of the picture.
        """
        if not self.refers:
            return x
        return torch.cat([x, torch.zeros_like(x) if visible is None else visible], 1)

    # Pixels: float32 [1, 3, H, W] in [-1, 1]

    @abstractmethod
    def encoder_input(self, pixels: Tensor) -> Tensor:
        """What the encoder reads."""

    @abstractmethod
    def latent(self, encoded: Tensor) -> Tensor:
        """The noiseless latent from what the encoder returned (without an encoder: from what it would read)."""

    @abstractmethod
    def decoder_input(self, latent: Tensor) -> Tensor:
        """What the decoder reads."""

    @abstractmethod
    def pixels(self, decoded: Tensor) -> Tensor:
        """Pixels from what the decoder returned (without a decoder: from what it would read)."""

    # Texts and classes

    def condition(
        self,
        prompt: str | None,
        negative: str | None,
        guidance: float,
        size: tuple[int, int],
        class_label: int | None = None,
        guides: Guides | None = None,
    ) -> Conditioning:
        """What an image of `size` (H, W) is conditioned on; guides of None: what the pipeline's adapters say.

        PipelineError for texts that the model does not read, and for a class that it lacks; OptionError as for
        `Adapters.guides`.
        """
        label, adapters = self._class(class_label), self.adapters
        guides = adapters.guides(size) if guides is None else guides
        with adapters.loras.at(dict(guides.scales)):
            found = self.read(prompt, negative, guidance, size)
            inputs = dict(found.inputs)
            if pictures := adapters.prompt_inputs(guides, found.guided):
                inputs[ADDED] = {**inputs.get(ADDED, {}), **pictures}
            return self.with_pictures(replace(found, inputs=tuple(inputs.items()), class_label=label, guides=guides))

    def with_pictures(self, texts: Conditioning) -> Conditioning:
        """The texts with what the model reads of the pictures in their guides beside adapters: nothing."""
        return texts

    @abstractmethod
    def read(self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]) -> Conditioning:
        """The texts, for an image of `size` (H, W). PipelineError when the model does not read them."""

    def _class(self, label: int | None) -> int | None:
        """The number of a class, a whole one. PipelineError unless the model has it."""
        name = type(self.pipe).__name__
        if not self.classes:
            if label is not None:
                raise PipelineError(f"{name} takes no class: its network is not conditioned on classes")
            return None
        known = "0 on" if self.classes == math.inf else f"0 to {self.classes - 1:g}"
        if label is None:
            raise PipelineError(f"{name} needs a class: name one with class_label=, from {known}")
        if not 0 <= label < self.classes:
            raise PipelineError(f"{name} has no class {label}; classes are numbered from {known}")
        return operator.index(label)


def _noise(example: Any) -> Any:
    """Noise like maps and texts, always the same; anything else as it is."""
    if not isinstance(example, Tensor) or example.dim() < 2 or not example.is_floating_point():
        return example
    return torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).to(example)
