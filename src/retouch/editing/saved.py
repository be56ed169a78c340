"""Session folders: read and moved without their model, and opened to go on editing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from retouch.editing.archive import Archive, Progress, read_file, silent, version_folder
from retouch.editing.canvas.canvas import Canvas
from retouch.editing.canvas.picture import Picture
from retouch.editing.canvas.versions import glimpse_at, picture_at
from retouch.editing.editor import check_saved
from retouch.editing.history import History
from retouch.editing.images import Pixels, as_pixels, save_png
from retouch.editing.kinds import KINDS, AnyEditor, AnySession, Kind
from retouch.editing.manifest import PICTURE, SOURCE, WEIGHTS, ArchiveError, Entry, Manifest
from retouch.editing.replay import decoded, patched
from retouch.kernels.devices import HOST
from retouch.plan.policy import Policy


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
