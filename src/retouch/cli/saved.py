"""What the manifest of a session folder says, read without the model and without trusting it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SETTINGS = ("model", "width", "height")
STEPPED = ("steps", "strength", "guidance", "seed")
"""Settings of a model that takes steps."""


@dataclass(frozen=True)
class SavedVersion:
    """One version as the manifest names it. `region` is a share of the picture; `seconds` has a "total".

    `source` is the picture that edits are drawn on; `steps` None: the model takes no steps.
    """

    number: int
    edit: str
    region: float
    steps: int | None
    prompt: str | None
    negative: str | None
    seconds: Mapping[str, float]
    bytes: int
    bytes_read: int
    picture: str
    source: str

    @staticmethod
    def of(folder: Path, entry: dict[str, Any]) -> SavedVersion:
        """From an entry of a manifest; whatever an entry without sense makes Python raise."""
        from retouch.editing.archive import PICTURE, SOURCE, version_folder

        facts, number = entry["facts"], int(entry["number"])
        words = (facts.get("prompt"), facts.get("negative"))
        prompt, negative = (None if text is None else str(text) for text in words)
        files = version_folder(folder, number)
        return SavedVersion(
            number=number,
            edit=str(facts["edit"]),
            region=float(facts["region"]),
            steps=int(facts["steps"]) if "steps" in facts else None,
            prompt=prompt,
            negative=negative,
            seconds={str(name): float(each) for name, each in {"total": 0.0, **facts["seconds"]}.items()},
            bytes=sum(file["bytes"] for file in entry["files"].values()),
            bytes_read=int(facts["bytes_read"]),
            picture=str(files / PICTURE),
            source=str(files / (SOURCE if SOURCE in entry["files"] else PICTURE)),
        )


@dataclass(frozen=True)
class Saved:
    """A session folder as its manifest describes it; nothing else was read."""

    folder: Path
    kind: str
    settings: Mapping[str, Any]
    storage: str
    current: int
    versions: tuple[SavedVersion, ...]

    @staticmethod
    def of(folder: Path, manifest: dict[str, Any]) -> Saved:
        """From the manifest. Raises ArchiveError when something is missing in it."""
        from retouch.editing.archive import ArchiveError

        try:
            settings = dict(manifest["settings"])
            _ = settings["editor"]["policy"]["name"], [settings[key] for key in SETTINGS]
            if manifest["kind"] == "diffusion":
                _ = settings["scheduler"]["name"], [settings[key] for key in STEPPED]
            if manifest["kind"] == "labels":
                settings |= {"labels": int(settings["labels"]), "instances": bool(settings["instances"])}
            return Saved(
                folder,
                str(manifest["kind"]),
                settings,
                str(manifest["storage"]),
                int(manifest["current"]),
                tuple(SavedVersion.of(folder, entry) for entry in manifest["versions"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise ArchiveError(f"the manifest in {folder} is damaged: {error!r}") from error

    @staticmethod
    def read(folder: Path) -> Saved:
        """From the folder. Raises ArchiveError when it holds no session that can be read."""
        from retouch.editing.archive import read_manifest

        return Saved.of(folder, read_manifest(folder))

    @property
    def version(self) -> SavedVersion:
        """The current version."""
        return self.versions[self.current]

    def report(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "kind": self.kind,
            "settings": dict(self.settings),
            "storage": self.storage,
            "bytes": sum(version.bytes for version in self.versions),
            "current": self.current,
            "picture": self.version.picture,
            "versions": [asdict(version) for version in self.versions],
        }


def check_outside(path: Path, folder: Path) -> None:
    """ValueError if `path` is a file of a session folder."""
    if path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"cannot write {path}: {folder} is a session, which keeps its own files")
