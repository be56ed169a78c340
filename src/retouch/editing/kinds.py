"""The kinds of editing: what each is recognised by, its editor, what an edit of it takes, and what is told of it.

The one place that knows all of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import torch

from retouch.editing.archive import Archive, Progress, read_file, silent, version_folder
from retouch.editing.blend import FADE
from retouch.editing.canvas.canvas import Canvas
from retouch.editing.canvas.picture import Picture
from retouch.editing.canvas.versions import glimpse_at, picture_at
from retouch.editing.diffusion.canvases import Canvases
from retouch.editing.diffusion.editor import Editor
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.editor import check_saved
from retouch.editing.forms import DIFFUSION, LABELS, UPSCALE, Form
from retouch.editing.gan.labels import LabelEditor, LabelSession
from retouch.editing.gan.upscaler import PRETRAINED, Upscaler, Upscalers, UpscaleSession
from retouch.editing.history import History
from retouch.editing.images import Pixels, as_pixels, save_png
from retouch.editing.manifest import PICTURE, SOURCE, WEIGHTS, ArchiveError, Entry, Manifest
from retouch.editing.replay import decoded, patched
from retouch.editing.session import Session
from retouch.errors import OptionError
from retouch.kernels.devices import HOST, selected
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


# Saved sessions


@dataclass(frozen=True)
class Saved:
    """A session folder as its manifest describes it; nothing else was read."""

    folder: Path
    kind: Kind
    manifest: Manifest

    @staticmethod
    def read(folder: Path) -> Saved:
        """From the folder. Raises ArchiveError when it holds no session that can be read."""
        return Saved.of(folder, Manifest.read(folder))

    @staticmethod
    def of(folder: Path, manifest: Manifest) -> Saved:
        """With the manifest that was read of it. Raises ArchiveError when it is none of a known kind."""
        if manifest.kind not in KINDS:
            raise ArchiveError(
                f"the session {folder} is of the kind {manifest.kind!r}, which this version does not know"
            )
        kind = KINDS[manifest.kind]
        check_saved(kind.sessions, folder, manifest)
        return Saved(folder, kind, manifest)

    @staticmethod
    def moved(folder: Path, to: Callable[[History[Entry]], History[Entry]], output: Path | None = None) -> Saved:
        """The folder with another current version, of which the picture is written to `output` first.

        Raises ArchiveError when the folder is no session, is in use, or the picture is damaged, and what `to` raises.
        """
        archive, manifest = Archive.open(folder)
        with closing(archive):
            manifest = manifest.at(to(manifest.history))
            saved, entry = Saved.of(folder, manifest), manifest.version
            shown = manifest.history.past if manifest.light else (entry,)
            archive.verify(replace(each, files={PICTURE: each.files[PICTURE]}) for each in shown)
            if output is not None:
                saved.write(entry, output)
            archive.commit(manifest)
        return saved

    def picture(self, entry: Entry) -> str:
        """The file with a version's image."""
        return str(version_folder(self.folder, entry.folder) / PICTURE)

    def pixels(self, entry: Entry) -> Pixels:
        """A version's image; in a light session its file holds what it changed, and in a canvas what was changed."""
        if self.kind.sessions is Canvas:
            return self.canvas(entry).seen()
        if not self.manifest.light or entry.parent is None:
            return as_pixels(self.picture(entry))
        below = self.pixels(self.manifest.history[entry.parent])
        return patched(below, decoded(read_file(self.folder, entry, PICTURE)))

    def canvas(self, entry: Entry) -> Picture:
        """The picture of a version of a canvas, in its depth. Raises ArchiveError."""
        return picture_at(self.folder, self.manifest.history.path(entry.number))

    def glimpse(self, entry: Entry) -> Pixels:
        """A version's image, of a large canvas smaller."""
        if self.kind.sessions is Canvas:
            return glimpse_at(self.folder, self.manifest.history.path(entry.number))
        return self.pixels(entry)

    def source(self, entry: Entry) -> str:
        """The file with what edits are drawn on."""
        return str(version_folder(self.folder, entry.folder) / (SOURCE if SOURCE in entry.files else PICTURE))

    def drawn_on(self, entry: Entry) -> Pixels:
        """The picture that edits of a version are drawn on."""
        return as_pixels(self.source(entry)) if SOURCE in entry.files else self.pixels(entry)

    def write(self, entry: Entry, path: Path) -> None:
        """A version's picture to a file, of a canvas in its depth. Raises ArchiveError, ImageError."""
        if self.kind.sessions is Canvas:
            self.canvas(entry).write(path)
        else:
            save_png(self.pixels(entry), path)

    def facts(self) -> dict[str, str]:
        """What people want to know of it, line by line."""
        settings = self.manifest.settings
        session = f"{self.kind.name}, {settings['width']}x{settings['height']} pixels"
        return {"session": session, "model": settings["model"] or "not named", **self.kind.facts(self.manifest)}

    def report(self) -> dict[str, Any]:
        """All of it as plain data."""
        manifest = self.manifest
        return {
            "kind": manifest.kind,
            "settings": manifest.settings,
            "storage": manifest.storage,
            "bytes": sum(entry.nbytes for entry in manifest.versions),
            "current": manifest.current,
            "picture": self.picture(manifest.version),
            "versions": [self._version(entry) for entry in manifest.versions],
        }

    def _version(self, entry: Entry) -> dict[str, Any]:
        told = {
            name: entry.facts.get(name)
            for name in ("edit", "region", "steps", "prompt", "negative", "class_label", "areas")
        }
        return {
            "number": entry.number,
            "parent": entry.parent,
            "name": entry.name,
            **told,
            "seconds": {"total": 0.0, **entry.facts["seconds"]},
            "bytes": entry.nbytes,
            "bytes_read": entry.facts["bytes_read"],
            "picture": self.picture(entry),
            "source": self.source(entry),
        }


def open(
    path: str | Path,
    *,
    editor: AnyEditor | None = None,
    model: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: Progress = silent,
    wait: bool = True,
    **options: Any,
) -> AnySession:
    """Open a saved session or canvas to go on editing.

    editor: one for the model that it was recorded with; None: the model is loaded from `model`, by default
        from where it was, to `device`, with `options` as for its editor. "auto" takes no device that kernels of
        the recording do not run on.

    wait: of a session that was saved light the recording and the current version are made again, which `progress` tells
        of; with False the worker of the device does that, as for `Editor.open`, and the pictures can be seen meanwhile.
        Where that gives other bytes than at first, a ReplayWarning says so and the picture is kept.

    Every file is compared with its checksum. Raises ArchiveError when the folder is no session, is damaged,
    in use, of a newer format, or was recorded with other weights, networks or settings.
    """
    saved = Saved.read(Path(path))
    return saved.kind.restore(editor or _recorded_editor(saved, model, device, options), Path(path), progress, wait)


def _recorded_editor(
    saved: Saved, model: str | Path | None, device: str | torch.device, options: dict[str, Any]
) -> AnyEditor:
    """An editor like the one that recorded a session."""
    path, settings = saved.folder, saved.manifest.settings
    named, editor = model or settings["model"], settings["editor"]
    if not named:
        raise ArchiveError(f"{path} does not say which model it was recorded with; pass model= or editor=")
    recorded = {
        name: editor[name]
        for name in ("backend", "arithmetic", "scheduler", "upsamplings", "vae", "loras")
        if name in editor
    }
    recorded |= {"policy": Policy(**editor["policy"]), "dtype": WEIGHTS[editor["dtype"]]}
    on_cpu = any(network["backend"] == "cpu" for network in saved.manifest.networks.values())
    place = HOST if device == "auto" and on_cpu else device
    return saved.kind.editor.from_pretrained(named, device=place, **{**recorded, **options})
