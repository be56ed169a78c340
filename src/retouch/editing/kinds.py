"""The kinds of editing: what each is recognised by, its editor, what an edit of it takes, and what is told of it.

The one place that knows all of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch

from retouch.editing.archive import Progress
from retouch.editing.blend import FADE
from retouch.editing.canvas.canvas import Canvas
from retouch.editing.diffusion.canvases import Canvases
from retouch.editing.diffusion.editor import Editor
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.forms import DIFFUSION, LABELS, UPSCALE, Form
from retouch.editing.gan.labels import LabelEditor, LabelSession
from retouch.editing.gan.upscaler import PRETRAINED, Upscaler, Upscalers, UpscaleSession
from retouch.editing.manifest import WEIGHTS, Manifest
from retouch.editing.session import Session
from retouch.errors import OptionError
from retouch.kernels.devices import selected
from retouch.kernels.registry import backend
from retouch.models.builtin import PIPELINES
from retouch.plan.policy import Policy

AnyEditor = Editor | Upscaler | LabelEditor
AnySession = DiffusionSession | UpscaleSession | LabelSession | Canvas

CHECKPOINTS = (".pth", ".pt", ".safetensors")
"""Suffixes of files that hold a generator of pictures from labels."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
AUTOMATIC = ("auto", "int8")
"""Names of types that depend on the processor."""
BUILT_IN = (*PIPELINES, *PRETRAINED)


@dataclass(frozen=True)
class Kind:
    """One kind of editing.

    recognises: whether a model's name is one of this kind, when those before it in `KINDS` do not know it.
    editor: what is loaded for it, by `from_pretrained` with a model's name. sessions: what is saved.
    restore: opens a folder with such an editor.
    policy: the one that a model has by itself. form: what is asked of an edit. facts: what is told of a session.
    """

    editor: type[AnyEditor]
    recognises: Callable[[str], bool]
    policy: Callable[[str], Policy]
    form: Form
    facts: Callable[[Manifest], Mapping[str, str]]
    sessions: type[Session]
    restore: Callable[[Any, Path, Progress, bool], AnySession] = lambda editor, *how: editor.restore(*how)

    @property
    def name(self) -> str:
        """As manifests have it."""
        return self.sessions.kind


def _kept(manifest: Manifest) -> str:
    return f"policy {manifest.settings['editor']['policy']['name']}, rows as {manifest.storage}"


def _facts(manifest: Manifest) -> dict[str, str]:
    return {"settings": _kept(manifest)}


def _diffusion_facts(manifest: Manifest) -> dict[str, str]:
    settings, recorded = manifest.settings, manifest.versions[0].facts["steps"]
    noise = f"strength {settings['strength']}, guidance {settings['guidance']}, seed {settings['seed']}"
    return {
        "steps": f"{recorded} recorded of {recorded + settings['first']}, {settings['scheduler']['name']}",
        "settings": f"{noise}, blend {settings.get('blend', FADE)}, {_kept(manifest)}",
    }


def _balanced(name: str) -> Policy:
    return Policy.named("balanced")


def _upscaler_policy(name: str) -> Policy:
    return Policy.named(PRETRAINED[name].policy) if name in PRETRAINED else _balanced(name)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(Upscaler, lambda name: name in PRETRAINED, _upscaler_policy, UPSCALE, _facts, UpscaleSession),
        Kind(LabelEditor, lambda name: name.endswith(CHECKPOINTS), _balanced, LABELS, _facts, LabelSession),
        Kind(Editor, lambda name: True, _balanced, DIFFUSION, _diffusion_facts, DiffusionSession),
        Kind(
            Editor,
            lambda name: False,
            _balanced,
            DIFFUSION,
            _facts,
            Canvas,
            lambda editor, *how: Canvases(editor).restore(*how),
        ),
    )
}


def kind_of(name: str | Path) -> Kind:
    """The kind of a model by its name."""
    return next(kind for kind in KINDS.values() if kind.recognises(str(name)))


def located(model: str) -> str:
    """A built-in or hub name as it is, a file or folder as an absolute path. OptionError if it is none of them."""
    path = Path(model).expanduser()
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise OptionError(f"the folder {model} holds no diffusers pipeline (model_index.json is missing)")
    if path.is_file() and path.suffix not in CHECKPOINTS:
        raise OptionError(
            f"{model} is a file; a model is the folder or hub name of a diffusers pipeline, or one of "
            f"weights ({', '.join(CHECKPOINTS)}) that makes pictures from labels"
        )
    if path.exists():
        return os.path.abspath(path)
    if model.startswith("builtin/") and model not in BUILT_IN:
        raise OptionError(f"unknown built-in model {model!r}; there are {', '.join(BUILT_IN)}")
    if not HUB_NAME.fullmatch(model):
        raise OptionError(f"there is no folder {model}")
    return model


@overload
def load(
    name: Upscalers, *, dtype: torch.dtype | str = ..., device: str | torch.device = ..., **options: Any
) -> Upscaler: ...
@overload
def load(
    name: str | Path, *, dtype: torch.dtype | str = ..., device: str | torch.device = ..., **options: Any
) -> AnyEditor: ...
def load(
    name: str | Path, *, dtype: torch.dtype | str = torch.float32, device: str | torch.device = "auto", **options: Any
) -> AnyEditor:
    """An editor for a model by its name, of whatever kind it is.

    name: a built-in model (`builtin/emoji`, `builtin/realesrgan-x4` ...); a diffusers pipeline, by its folder or its
        name on the hub; or a file of weights (.pth, .pt, .safetensors) that makes pictures from labels.
    dtype: of the weights, "float32", "bfloat16" or "float16"; "auto": bfloat16 where the processor multiplies that
        itself, else float32; "int8": "auto" with the option `arithmetic="int8"`, which is faster and less exact.
    device: where they go; "auto": to the accelerator that PyTorch sees, if it can be used, else
        the CPU. options: as for the editor, an `Editor`, `Upscaler` or `LabelEditor`.

    Raises OptionError when there is no such model, PipelineError or WeightFileError when it cannot be read or is not
    supported, ImportError naming the extra to install for a library that is missing.
    """
    found = located(str(name))
    if isinstance(dtype, str):
        dtype, options = _typed(dtype, device, options)
    return kind_of(found).editor.from_pretrained(found, dtype=dtype, device=device, **options)


def _typed(dtype: str, device: str | torch.device, options: dict[str, Any]) -> tuple[torch.dtype, dict[str, Any]]:
    """The type of weights that a name stands for on a device, and options with the arithmetic that it means."""
    if dtype in WEIGHTS:
        return WEIGHTS[dtype], options
    if dtype not in AUTOMATIC:
        raise OptionError(f"unknown dtype {dtype!r}; choose from: {', '.join((*WEIGHTS, *AUTOMATIC))}")
    name = options.get("backend", "auto")
    native = backend(name, selected(device, name)).native
    return native, {"arithmetic": "int8", **options} if dtype == "int8" else options
