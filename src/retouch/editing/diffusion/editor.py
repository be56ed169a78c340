"""Editors: a diffusers pipeline made incremental, and the sessions it opens."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import torch
from torch import nn

from retouch.editing.archive import Archive, Progress, silent
from retouch.editing.blend import DEFAULT, checked
from retouch.editing.canvas.canvas import Canvas
from retouch.editing.canvas.enlarge import AUTO
from retouch.editing.canvas.picture import Picture
from retouch.editing.canvas.planner import FLOOR
from retouch.editing.diffusion.autoencoder import loaded, located
from retouch.editing.diffusion.canvases import Canvases, Photographs
from retouch.editing.diffusion.families import check_family
from retouch.editing.diffusion.guides import AS_BEFORE, Images, Scales, Steering
from retouch.editing.diffusion.lora_files import load_loras
from retouch.editing.diffusion.model import PipelineError, loading
from retouch.editing.diffusion.sampler import Sampler
from retouch.editing.diffusion.schedulers import chosen, name_of
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.diffusion.unet import model_of
from retouch.editing.gan.upscaler import PRETRAINED, Upscaler, Upscalers
from retouch.editing.images import ImageLike, as_pixels
from retouch.editing.manifest import ArchiveError, Manifest
from retouch.kernels.devices import device_of, selected
from retouch.models.builtin import PIPELINES
from retouch.models.extras import diffusers
from retouch.plan.policy import Policy

STEPS, STRENGTH, GUIDANCE = 20, 0.6, 7.5
LARGEST = 4
"""Times the pixels that a model was trained for; beyond that it does not know what a whole picture looks like."""


class Editor(Photographs):
    """Opens editing sessions on the images of one diffusers pipeline. The pipeline itself is not changed.

    pipe: DDPMPipeline, DDIMPipeline (also v-prediction, few-step and class-conditional checkpoints), Stable Diffusion
        1.x or 2.x (text to image, image to image, inpainting), SDXL base, models distilled from these (LCM, Turbo,
        Lightning, Hyper, TCD), or one with a transformer (FLUX.1, FLUX.2 klein, Qwen-Image, SD 3, Z-Image), on
        any one device.
    scheduler: one of `retouch.editing.diffusion.SCHEDULERS` with the pipeline's settings; None: the pipeline's own.
    vae: an autoencoder in the place of the pipeline's, or the folder or hub name of one: `AutoencoderKL`,
        `AutoencoderTiny`, `AsymmetricAutoencoderKL`, `AutoencoderKLFlux2` or `AutoencoderKLQwenImage`. `retouch.open`
        finds those again that have a name.
    blend: how results of edits are set into the picture: "fade", "multiband" or "harmonise"; None: "harmonise", and
        what saved sessions say, "fade" where they say nothing.
    policy: as for `retouch.compile`. The rest: as for `BaseEditor`.

    Raises PipelineError for a pipeline, SchedulerError for a scheduler, OptionError for a blend that is not supported.
    """

    sessions = DiffusionSession
    loras: Mapping[str, str] = MappingProxyType({})  # where they were loaded from, by name

    def __init__(
        self,
        pipe: Any,
        *,
        scheduler: str | None = None,
        vae: nn.Module | str | Path | None = None,
        blend: str | None = None,
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
        self.vae = located(vae) if isinstance(vae, str | Path) else None
        own = loaded(vae, getattr(pipe, "transformer", None) or pipe.unet) if isinstance(vae, str | Path) else vae
        self.model = model_of(pipe, Policy.named(policy), backend, own)
        self.scheduler = chosen(scheduler, pipe.scheduler)
        self.blend = None if blend is None else checked(blend)
        self.model.keep_module, self.model.arithmetic = keep_module, arithmetic
        self.model.map_weights = map_weights
        kept = memory, device_memory, folder, storage, history
        super().__init__(name, backend, *kept, keep_module, arithmetic, map_weights)

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return device_of(self.model.denoiser)

    @overload
    @staticmethod
    def from_pretrained(
        name: Upscalers, *, dtype: torch.dtype = ..., device: str | torch.device = ..., **options: Any
    ) -> Upscaler: ...
    @overload
    @staticmethod
    def from_pretrained(
        name: str | Path, *, dtype: torch.dtype = ..., device: str | torch.device = ..., **options: Any
    ) -> Editor: ...
    @staticmethod
    def from_pretrained(
        name: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "auto",
        loras: Mapping[str, str | Path] | None = None,
        **options: Any,
    ) -> Editor | Upscaler:
        """An editor for a pipeline in a local folder (`save_pretrained`), on the hub, or a built-in model.

        `retouch.load` opens models of every kind; of the others this takes the names of upscalers.

        device: where it goes; "auto": to the accelerator that PyTorch sees, if that can be used, else the CPU.
            `kernels` of the editor says which.
        loras: LoRAs by names for them, of a pipeline: files, folders or hub names. All are switched on, at scale 1;
            `scales` of recordings and edits say otherwise. `retouch.open` finds them again.

        Weights are read from safetensors only. Raises PipelineError when there is none or it cannot be read,
        ValueError for a device that cannot be used.
        """
        if name in PRETRAINED:
            return Upscaler.from_pretrained(name, dtype=dtype, device=device, **options)
        place = selected(device, options.get("backend", "auto"))
        library = diffusers()
        with loading("pipeline", name):
            folder = PIPELINES.get(str(name), name)
            parts = library.DiffusionPipeline.load_config(str(folder))
            if "transformer" in parts:
                check_family(parts["_class_name"])
            absent = {part: None for part, kind in parts.items() if kind == [None, None]}  # T5 of SD 3 must be named
            pipe = library.DiffusionPipeline.from_pretrained(str(folder), dtype=dtype, use_safetensors=True, **absent)
        if hasattr(pipe, "set_progress_bar_config"):
            pipe.set_progress_bar_config(disable=True)
        places = {key: located(value) for key, value in (loras or {}).items()}
        load_loras(pipe, places)
        editor = Editor(pipe.to(place), name=str(name), **options)
        editor.loras = places
        return editor

    # Sessions

    def open(
        self,
        image: ImageLike,
        *,
        prompt: str | None = None,
        negative: str | None = None,
        guidance: float = GUIDANCE,
        class_label: int | None = None,
        control: Images | None = None,
        image_prompt: Images | None = None,
        scales: Scales | None = None,
        strength: float = STRENGTH,
        steps: int = STEPS,
        seed: int = 0,
        folder: str | Path | None = None,
        wait: bool = True,
        progress: Progress = silent,
    ) -> DiffusionSession:
        """Record a photograph (or any picture), to edit it.

        image: path, PIL image, array or tensor, see `retouch.editing.images.as_pixels`; its size must be one that
            the network divides.
        prompt, negative, guidance: texts and classifier-free guidance, for models that read them. Models that read
            the scale itself (LCM) take no negative prompt and compute half as much.
        class_label: the number of a class, for models that are conditioned on classes; these need one.
        control: an image of the same size for each ControlNet or T2I-Adapter of the pipeline, if it has some.
            image_prompt: one for each IP-Adapter; for Qwen-Image-Edit the picture that words are about, this one if
            none is given; pictures that FLUX.2 klein and Qwen-Image-Edit-Plus refer to. scales: see
            `DiffusionSession.edit`; those of LoRAs are the pipeline's, and those of controls 1, where it is not said.
        strength: how much an edit redraws at most, 0 to 1; `steps` times `strength` steps are run.
        folder: keep the session there, every edit as it is made; None: `Session.save` does later.
        wait: False returns at once, and the worker of the device records: `session.opening` is that job, which calls
            `progress`. The picture can be seen and drawn on meanwhile; edits wait for the recording. When it fails or
            is cancelled the session is closed, and nothing stays in its folder.

        Raises ImageError, PipelineError, SchedulerError for bad input, StoreError when there is no room.
        """
        pixels = as_pixels(image)
        size: tuple[int, int] = (pixels.shape[0], pixels.shape[1])
        if image_prompt is None and self.model.shown:
            image_prompt = pixels
        steering = Steering(control, image_prompt, scales)
        session = self.unrecorded(
            size, prompt, negative, guidance, class_label, steps, seed, strength, steering, progress=progress
        )
        awaited = {"image": torch.from_numpy(pixels)}
        return self._recorded(session, folder, lambda: session.record_photograph(pixels, progress), wait, awaited)

    def generate(
        self,
        prompt: str | None = None,
        *,
        size: tuple[int, int] | None = None,
        negative: str | None = None,
        guidance: float = GUIDANCE,
        class_label: int | None = None,
        control: Images | None = None,
        image_prompt: Images | None = None,
        scales: Scales | None = None,
        strength: float = STRENGTH,
        steps: int = STEPS,
        seed: int = 0,
        folder: str | Path | None = None,
        wait: bool = True,
        progress: Progress = silent,
    ) -> DiffusionSession:
        """Generate an image of `size` (H, W) and record the trajectory that makes it, to edit it.

        strength: that of edits which do not say another. Otherwise like `open`; with `wait=False` there is no picture
            until `session.opening` is done.
        """
        size = size or self.model.default_size
        session = self.unrecorded(
            size, prompt, negative, guidance, class_label, steps, seed, strength,
            Steering(control, image_prompt, scales), generated=True, progress=progress,
        )  # fmt: skip
        return self._recorded(session, folder, lambda: session.record_generated(progress), wait, {})

    def takes(self, size: tuple[int, int]) -> bool:
        """Whether `open` shows a picture of a size (H, W) whole: one that the network divides, and not many times as
        large as what it was trained for. Any other is one for `canvas`.
        """
        try:
            self.model.check_size(size)
        except PipelineError:
            return False
        return math.prod(size) <= LARGEST * math.prod(self.model.default_size)

    def canvas(
        self,
        picture: ImageLike | Picture,
        *,
        prompt: str | None = None,
        negative: str | None = None,
        guidance: float = GUIDANCE,
        class_label: int | None = None,
        strength: float = STRENGTH,
        steps: int = STEPS,
        seed: int = 0,
        size: tuple[int, int] | None = None,
        floor: float = FLOOR,
        disk: int | None = None,
        enlarger: str = AUTO,
        folder: str | Path | None = None,
        progress: Progress = silent,
    ) -> Canvas:
        """Open a picture of any size, up to 100 megapixels; viewports of it are recorded as edits need them.

        picture: as `image` of `open`, or a `Picture`, which the canvas then changes. Alpha, 16 bits, colour profile and
            EXIF are kept.
        size: height and width at which the model sees viewports; None: what it was trained for.
        floor: the quality, 0 to 1, that the planner keeps to where anything reaches it (see `Canvas.plan`).
        disk: bytes of files that viewports may take beside memory; None: 40 % of what is free.
        enlarger: how results come back of viewports that show the picture reduced: "lanczos", a built-in
            super-resolver by its name, or "auto", that on an accelerator where its weights are there.
        folder: keep the canvas there, every edit as it is made. The rest: as for `open`.
        progress: told of networks that are compiled for viewports.

        Raises what `open` raises; StoreError when there is no room for one viewport, before anything is computed.
        """
        settings = {"prompt": prompt, "negative": negative, "guidance": guidance, "class_label": class_label}
        settings |= {"strength": strength, "steps": steps, "seed": seed}
        return Canvases(self).open(picture, folder, size, floor, disk, enlarger, progress, **settings)

    def _restored(self, archive: Archive, manifest: Manifest, progress: Progress) -> DiffusionSession:
        settings, facts = manifest.settings, manifest.version.facts
        if self.blend is not None:
            settings["blend"] = self.blend
        size = (settings["height"], settings["width"])
        scheduler = settings["scheduler"]
        if scheduler != self._scheduler_facts():
            raise ArchiveError(
                f"the session was recorded with {scheduler['name']} and its settings; "
                "open it with an editor that has the same scheduler"
            )
        blank = self.model.adapters.blank(size, facts.get("scales"), settings.get("prompts"))  # pictures are read later
        conditioning = self.model.condition(
            facts["prompt"], facts["negative"], float(settings["guidance"]), size, facts.get("class_label"), blank
        )
        sampler = self._sampler(size, settings["steps"], settings["seed"])
        if settings["first"] >= len(sampler):
            raise ArchiveError(f"the manifest in {archive.path} is damaged: its first step is {settings['first']}")
        return DiffusionSession(self.model, sampler, conditioning, self._store(manifest.storage), settings, progress)

    def unrecorded(
        self,
        size: tuple[int, int],
        prompt: str | None,
        negative: str | None,
        guidance: float,
        class_label: int | None,
        steps: int,
        seed: int,
        strength: float,
        steering: Steering = AS_BEFORE,
        generated: bool = False,
        progress: Progress = silent,
    ) -> DiffusionSession:
        """One that is not recorded yet; `progress` is told of networks that are compiled for it."""
        self.model.check_size(size)
        if generated and self.model.refers:
            raise PipelineError(f"{type(self.model.pipe).__name__} makes pictures of others; open one and edit it")
        guides = self.model.adapters.guides(size, steering)
        conditioning = self.model.condition(prompt, negative, guidance, size, class_label, guides)
        sampler = self._sampler(size, steps, seed)
        start = sampler.start(strength)
        settings = {
            "model": self.name,
            "height": size[0],
            "width": size[1],
            "steps": steps,
            "seed": seed,
            "strength": strength,
            "guidance": guidance,
            "first": 0 if generated else start,
            "scheduler": self._scheduler_facts(),
            "blend": self.blend or DEFAULT,
            **({"prompts": [list(each.size) for each in guides.prompts]} if guides.prompts else {}),
            "editor": {
                "policy": asdict(self.model.policy),
                "backend": self.backend,
                "dtype": str(self.model.dtype).removeprefix("torch."),
                **self.arithmetic_facts,
                "scheduler": name_of(self.scheduler),
                **({} if self.vae is None else {"vae": self.vae}),
                **({"loras": dict(self.loras)} if self.loras else {}),
            },
        }
        return DiffusionSession(self.model, sampler, conditioning, self._store(), settings, progress)

    def _sampler(self, size: tuple[int, int], steps: int, seed: int) -> Sampler:
        return Sampler(self.scheduler, steps, seed, self.model.schedule(size, steps))

    def _scheduler_facts(self) -> dict[str, Any]:
        """Name and settings of the scheduler as plain data."""
        config = {k: v for k, v in self.scheduler.config.items() if not k.startswith("_")}
        name = type(self.scheduler).__name__
        return {"name": name, "config": json.loads(json.dumps(config, default=repr, sort_keys=True))}
