"""Saved sessions of every kind, with the editors that recorded them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from retouch.editing.archive import ArchiveError, Progress, read_manifest, silent
from retouch.editing.diffusion.editor import Editor
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.gan.labels import LabelEditor, LabelSession
from retouch.editing.gan.upscaler import Upscaler, UpscaleSession
from retouch.kernels.devices import HOST
from retouch.plan.policy import Policy

AnyEditor = Editor | Upscaler | LabelEditor
AnySession = DiffusionSession | UpscaleSession | LabelSession
EDITORS: dict[str, type[AnyEditor]] = {made.sessions.kind: made for made in (Editor, Upscaler, LabelEditor)}
"""Editors by the kind of their sessions."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types of a model's weights, by their names in manifests."""


def open(
    path: str | Path,
    *,
    editor: AnyEditor | None = None,
    model: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: Progress = silent,
    **options: Any,
) -> AnySession:
    """Open a saved session to go on editing.

    editor: one for the model that it was recorded with; None: the model is loaded from `model`, by default
        from where it was, to `device`, with `options` as for its editor. "auto" takes no device that kernels of
        the recording do not run on.

    Every file is compared with its checksum. Raises ArchiveError when the folder is no session, is damaged,
    in use, of a newer format, or was recorded with other weights, networks or settings.
    """
    return (editor or _recorded_editor(Path(path), model, device, options)).restore(path, progress)


def _recorded_editor(
    path: Path, model: str | Path | None, device: str | torch.device, options: dict[str, Any]
) -> AnyEditor:
    """An editor like the one that recorded a session."""
    try:
        manifest = read_manifest(path)
        settings, editor = manifest["settings"], EDITORS[manifest["kind"]]
        named, saved = model or settings["model"], settings["editor"]
        recorded = {name: saved[name] for name in ("backend", "scheduler", "upsamplings") if name in saved}
        recorded["policy"] = Policy(**saved["policy"])
        recorded["dtype"] = DTYPES[saved["dtype"]]
        on_cpu = any(network["backend"] == "cpu" for network in manifest["networks"].values())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArchiveError(f"the manifest in {path} is damaged: {error!r}") from error
    if not named:
        raise ArchiveError(f"{path} does not say which model it was recorded with; pass model= or editor=")
    place = HOST if device == "auto" and on_cpu else device
    return editor.from_pretrained(named, device=place, **{**recorded, **options})
