"""Adapters of a denoiser: LoRA; of a U-Net also ControlNet (Zhang et al., arXiv 2302.05543), T2I-Adapter (Mou et al.,
arXiv 2302.08453) and IP-Adapter (Ye et al., arXiv 2308.06721).

What is made of a control image alone, the same at every step, is a network of its own that runs once for a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from retouch.editing.diffusion.guides import AS_BEFORE, CONTROL, Guides, Images, Picture, Scales, Steering, as_pictures
from retouch.editing.diffusion.lora import Loras
from retouch.editing.images import check_same
from retouch.errors import OptionError
from retouch.kernels.devices import HOST, device_of, moved
from retouch.models.extras import diffusers

Features = tuple[tuple[Tensor, ...], ...]
"""What is made of each control image: `[1, C, h, w]` on one grid (ControlNet) or several (T2I-Adapter)."""


ADAPTED = ("unet", "transformer", "text_encoder", "text_encoder_2")
"""Parts of a pipeline that LoRAs change."""


class Adapters:
    """The adapters of a pipeline as they are now.

    controls: ControlNets or T2I-Adapters by name. prompts: how many image prompts the IP-Adapters read. scales: those
    of LoRAs and controls, by name.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe: Any = pipe
        self.unet: Any = getattr(pipe, "unet", None)
        found = _controls(pipe)
        self.controls = {f"{CONTROL}-{k}": module for k, module in enumerate(found, 1)}
        projection = getattr(self.unet, "encoder_hid_proj", None)
        self.prompts = len(getattr(projection, "image_projection_layers", ()))
        self.loras = Loras(getattr(pipe, name, None) for name in ADAPTED)
        self.scales = self.loras.scales | dict.fromkeys(self.controls, 1.0)
        self._prompt_scales = str([p.scale for p in self._processors()])

    def _processors(self) -> list[Any]:
        return [p for p in self.unet.attn_processors.values() if hasattr(p, "to_k_ip")] if self.prompts else []

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal where compiled networks are."""
        return (*map(id, self.controls.values()), *self.loras.scales, self.prompts, self._prompt_scales)

    @property
    def denoiser(self) -> nn.Module:
        """The U-Net, with what is added to it and to its arguments."""
        found: nn.Module = _Adapted(self) if self.scales else self.unet
        return found

    def scaled(self, net: nn.Module) -> nn.Module:
        """A network of the pipeline's transformer, with its LoRAs scaled."""
        return _Scaled(net, self.loras) if self.loras.scales else net

    @property
    def is_control_net(self) -> bool:
        """Whether controls are ControlNets, which run beside the U-Net at every step."""
        return any(hasattr(module, "controlnet_cond_embedding") for module in self.controls.values())

    def once(self) -> dict[str, nn.Module]:
        """What runs once for each control image, by the name of the control."""
        part = "controlnet_cond_embedding" if self.is_control_net else "adapter"
        return {name: getattr(module, part) for name, module in self.controls.items()}

    def control_input(self, name: str, picture: Picture) -> Tensor:
        """What it reads of a control image: `[1, C, H, W]` in 0 to 1."""
        module, pixels = self.controls[name], picture.pixels
        if getattr(module.config, "in_channels", 3) == 1 and not self.is_control_net:
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
        planes = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 255.0)
        return planes[None].to(next(module.parameters()).dtype)

    @torch.no_grad()
    def prompt_inputs(self, guides: Guides, guided: bool) -> dict[str, Any]:
        """What a U-Net reads of image prompts, on the host; for guidance without and with them."""
        if not guides.prompts:
            return {}
        if getattr(self.pipe, "image_encoder", None) is None:
            raise OptionError("the pipeline has an IP-Adapter but no image encoder; load it with one")
        pictures = [Image.fromarray(picture.pixels) for picture in guides.prompts]
        device = device_of(self.pipe.image_encoder)
        return {
            "image_embeds": moved(self.pipe.prepare_ip_adapter_image_embeds(pictures, None, device, 1, guided), HOST)
        }

    # What is asked for

    def guides(self, size: tuple[int, int], asked: Steering = AS_BEFORE, old: Guides | None = None) -> Guides:
        """What steers a picture of `size`, where it is not given as before.

        OptionError for what is missing, or what the pipeline has no adapter for; ImageError for pictures.
        """
        old = old or Guides(scales=tuple(self.scales.items()))
        controls = _pictures(
            asked.control, old.controls, len(self.controls), "control image", "ControlNet or T2I-Adapter"
        )
        for picture in controls:
            check_same(np.empty(size), picture.pixels, "the picture and a control image are")
        prompts = self.pictures(asked.image_prompt, old.prompts)
        return Guides(controls, prompts, self._scales(asked.scales or {}, dict(old.scales)))

    def pictures(self, given: Images | None, old: tuple[Picture, ...]) -> tuple[Picture, ...]:
        """Image prompts, from what is given or as before. OptionError for another number than there are IP-Adapters."""
        return _pictures(given, old, self.prompts, "image prompt", "IP-Adapter")

    def _scales(self, given: Scales, old: Scales) -> tuple[tuple[str, float], ...]:
        unknown = sorted(given.keys() - self.scales.keys())
        if unknown:
            known = ", ".join(self.scales) or "none: LoRAs are fused or not loaded, and there is no ControlNet"
            raise OptionError(f"there is no adapter {unknown[0]!r} with a scale of its own; there are {known}")
        wrong = [name for name, scale in given.items() if not math.isfinite(scale)]
        if wrong:
            raise OptionError(f"the scale of {wrong[0]!r} is {given[wrong[0]]}, which is no number")
        return tuple((name, float(given.get(name, old.get(name, own)))) for name, own in self.scales.items())

    def blank(
        self, size: tuple[int, int], scales: Scales | None = None, prompts: Sequence[Sequence[int]] | None = None
    ) -> Guides:
        """Black pictures, for networks to be compiled with; `prompts` are sizes of image prompts with their own."""
        black = Picture.of(np.zeros((*size, 3), np.uint8))
        found = (black,) * self.prompts
        if prompts:
            found = tuple(Picture.of(np.zeros((*each, 3), np.uint8)) for each in prompts)
        return Guides((black,) * len(self.controls), found, self._scales(scales or {}, {}))


def _pictures(given: Images | None, old: tuple[Picture, ...], count: int, what: str, of: str) -> tuple[Picture, ...]:
    """`count` pictures, from what is given or as before."""
    found = as_pictures(given)
    found = old if found is None else found
    if len(found) != count:
        there = f"{count} of them, one for each {of}" if count else f"none, as it has no {of}"
        raise OptionError(f"{len(found)} pictures are given as {what}; this pipeline reads {there}")
    return found


def _controls(pipe: Any) -> list[nn.Module]:
    """The ControlNets or T2I-Adapters of a pipeline. OptionError for other controls."""
    found: Any = getattr(pipe, "controlnet", None) or getattr(pipe, "adapter", None)
    if found is None:
        return []
    modules = list(getattr(found, "nets", None) or getattr(found, "adapters", None) or [found])
    kinds = diffusers().ControlNetModel, diffusers().T2IAdapter
    for module in modules:
        config: Any = getattr(module, "config", {})
        bgr = config.get("controlnet_conditioning_channel_order", "rgb") != "rgb"
        if not isinstance(module, kinds) or config.get("global_pool_conditions") or bgr:
            raise OptionError(
                f"{type(module).__name__} is not supported as a control, nor are ControlNets that read BGR or pool "
                "their results; take a ControlNetModel or a T2IAdapter"
            )
    return modules


class _Adapted(nn.Module):
    """A U-Net with its LoRAs scaled and controls added. `scales` are float32 tensors `[]` by name."""

    def __init__(self, adapters: Adapters) -> None:
        super().__init__()
        self.unet: nn.Module = adapters.unet
        nets = adapters.controls.values() if adapters.is_control_net else ()
        self.nets = nn.ModuleList(map(_without_embedding, nets))
        self.loras = adapters.loras

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        scales: dict[str, Tensor],
        features: Features = (),
        added_cond_kwargs: dict[str, Any] | None = None,
        **others: Any,
    ) -> Any:
        """What the U-Net returns."""
        read = (sample, timestep, encoder_hidden_states, added_cond_kwargs)
        weights = [scales[name] for name in scales if name not in self.loras.scales]
        with self.loras.at(scales):
            added = self._residuals(read, features, weights) if features else {}
            return self.unet(*read[:3], added_cond_kwargs=added_cond_kwargs, **added, **others)

    def _residuals(self, read: tuple[Any, ...], features: Features, weights: list[Tensor]) -> dict[str, Any]:
        """What is added inside of the U-Net, as its arguments."""
        if not self.nets:
            levels = zip(
                *([level * w for level in each] for each, w in zip(features, weights, strict=True)), strict=True
            )
            return {"down_intrablock_additional_residuals": [reduce(add, level) for level in levels]}
        sample, timestep, words, added = read
        first: Any = self.nets[0]
        sample = sample[:, : first.config.in_channels]  # of inpainting models without the mask
        found = [
            net(sample, timestep, words, each[0], weight, added_cond_kwargs=added, return_dict=False)
            for net, each, weight in zip(self.nets, features, weights, strict=True)
        ]
        downs, mids = zip(*found, strict=True)
        return {
            "down_block_additional_residuals": tuple(reduce(add, level) for level in zip(*downs, strict=True)),
            "mid_block_additional_residual": reduce(add, mids),
        }


class _Scaled(nn.Module):
    """A network with its LoRAs scaled. `scales` are float32 tensors `[]` by name."""

    def __init__(self, net: nn.Module, loras: Loras) -> None:
        super().__init__()
        self.net, self.loras = net, loras

    def forward(self, scales: dict[str, Tensor], **others: Any) -> Any:
        """What the network returns."""
        with self.loras.at(scales):
            return self.net(**others)


def _without_embedding(net: nn.Module) -> nn.Module:
    """A ControlNet of the same layers that reads what its embedding makes of a control image."""
    twin = copy(net)
    twin._modules = {**net._modules, "controlnet_cond_embedding": nn.Identity()}
    return twin
