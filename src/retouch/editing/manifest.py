"""The manifest of a session folder: plain data that is checked whole before anything trusts it.

It carries a checksum of its own since format 2, and a tree of versions since format 3: before, each version was made
from the one above it. Format 1 named policies by their `repr`. Format 4 is that of light sessions: their versions have
no layers, and what edits were asked is there instead, so that they are made again. Since format 5 versions of other
sessions may lack their layers as well.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from retouch.editing.fields import (
    Fields,
    finite,
    listed,
    maybe,
    number,
    optional,
    positive,
    record,
    table,
    text,
    whole,
    wrong,
)
from retouch.editing.history import History
from retouch.passes import ARITHMETIC
from retouch.plan.policy import Policy
from retouch.runtime.blocks import StoreError
from retouch.runtime.store import DTYPES

FORMAT, LIGHT, LAYERED, LISTED, UNSUMMED = 5, 4, 3, 2, 1
MANIFEST = "manifest.json"
MAX_BYTES = 64 << 20
PICTURE, SOURCE, TENSORS = "image.png", "source.png", "tensors.safetensors"
"""The files of a version with its image, what edits are drawn on where that is another picture, and its tensors."""
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,80}\.(safetensors|png)")
WEIGHTS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types of a model's weights by name."""
DIGEST = re.compile(r"[0-9a-f]{32}")
LONGEST_POLICY = 2000


class ArchiveError(StoreError):
    """A session folder cannot be opened or written: not one, altered, of a newer format, or in use."""


# Policies


def policy_fields(saved: Any) -> dict[str, Any]:
    """All fields of a policy as a manifest has it: by name, or as the `repr` of format 1; defaults for missing ones.

    Raises ArchiveError for fields that this version does not know, ValueError for what is no policy.
    """
    given = _from_repr(saved) if isinstance(saved, str) else saved
    if not isinstance(given, dict):
        raise ValueError(f"{given!r} is no policy")
    defaults = {field.name: field.default for field in fields(Policy)}
    unknown = sorted(given.keys() - defaults.keys())
    if unknown:
        raise ArchiveError(
            f"the session was recorded under a policy with {', '.join(map(repr, unknown))}, which this version "
            "does not know; update retouch, or record it again"
        )
    for name, value in given.items():
        default = defaults[name]
        if not (type(value) is type(default) or (number(value) and isinstance(default, float | None))):
            raise ValueError(f"{name} of a policy cannot be {value!r}")
    return asdict(Policy(**given))


def _from_repr(found: str) -> dict[str, Any]:
    """Keyword arguments of `Policy(...)` that are constants; nothing is run."""
    if len(found) > LONGEST_POLICY:
        raise ValueError("a policy is not that long")
    call = ast.parse(found, mode="eval").body
    if not isinstance(call, ast.Call) or ast.dump(call.func) != ast.dump(ast.Name("Policy", ast.Load())) or call.args:
        raise ValueError(f"{found!r} is no policy")
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}


# Manifests


@dataclass(frozen=True)
class Entry:
    """A version: `layers` are its calls by name with their files, `files` their sizes and checksums.

    parent: the number of the version that it was made from. revision: how many times its content was replaced by a
    refinement.
    """

    number: int
    facts: Mapping[str, Any]
    layers: tuple[tuple[str, str], ...]
    files: Mapping[str, Mapping[str, Any]]
    parent: int | None
    name: str | None
    revision: int = 0

    @property
    def folder(self) -> str:
        """The name of the folder with its files."""
        return folder_name(self.number, self.revision)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file["bytes"] for file in self.files.values())


@dataclass(frozen=True)
class Manifest:
    """What a session folder holds. `networks` say what recordings depend on; `current` and `tip` are places in
    `versions`: the one that is looked at, and the last one that redo reaches. `light`: versions have no layers, and are
    made again.
    """

    kind: str
    settings: dict[str, Any]
    storage: str
    networks: Mapping[str, Mapping[str, Any]]
    versions: tuple[Entry, ...]
    current: int
    tip: int
    light: bool = False

    @property
    def history(self) -> History[Entry]:
        """The versions as a tree."""
        return History(self.versions, self.version.number, self.versions[self.tip].number)

    def without_layers(self) -> Manifest:
        """That of a light session."""
        return replace(self, versions=tuple(replace(entry, layers=()) for entry in self.versions), light=True)

    def portable(self) -> Manifest:
        """The same without what stays where it is: the viewports of a canvas, which are made again where they are
        wanted.
        """
        return replace(self, settings={**self.settings, "views": []}) if "views" in self.settings else self

    def at(self, history: History[Entry]) -> Manifest:
        """That of the same session with another history."""
        current, tip = map(history.place, (history.current, history.tip))
        return replace(self, versions=history.versions, current=current, tip=tip)

    @property
    def version(self) -> Entry:
        """The current version."""
        return self.versions[self.current]

    @property
    def numbers(self) -> list[int]:
        """Those of the versions."""
        return [entry.number for entry in self.versions]

    @property
    def folders(self) -> list[str]:
        """The names of the folders of the versions."""
        return [entry.folder for entry in self.versions]

    @staticmethod
    def read(folder: Path) -> Manifest:
        """That of a session folder. ArchiveError when there is none, or it is altered or of a newer format."""
        file = folder / MANIFEST
        try:
            if file.stat().st_size > MAX_BYTES:
                raise ArchiveError(f"{file} is larger than a manifest can be")
            found = json.loads(file.read_text("utf-8"))
            version = found.pop("format")
            if version not in (FORMAT, LIGHT, LAYERED, LISTED, UNSUMMED) or not whole(version):
                raise ArchiveError(
                    f"{folder} has the session format {version}, this version reads {FORMAT}; update retouch"
                )
            if version != UNSUMMED and found.pop("checksum") != checksum(found):
                raise ArchiveError(f"{file} was altered: its checksum differs; the session cannot be trusted")
            return _manifest(found if version >= LAYERED else _as_tree(found), version == LIGHT)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ArchiveError(f"{folder} holds no session ({MANIFEST} is missing)") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SyntaxError, RecursionError) as error:
            raise ArchiveError(f"{file} is damaged: {error!r}") from error

    def text(self) -> str:
        """What the file holds."""
        body = json.loads(json.dumps(asdict(self)))
        del body["light"]
        return json.dumps({"format": LIGHT if self.light else FORMAT, **body, "checksum": checksum(body)}, indent=1)


def checksum(body: Mapping[str, Any]) -> str:
    """Of the content of a manifest, however it is written down."""
    plain = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()


_FILE: Fields = {"bytes": whole, "blake2b": lambda found: text(found) and bool(DIGEST.fullmatch(found))}
_FACTS: Fields = {
    "edit": text,
    "region": number,
    "bytes_read": whole,
    "seconds": table(finite),
    "macs": maybe(whole),
    "dense_macs": maybe(whole),
    "checksum": maybe(lambda found: text(found) and bool(DIGEST.fullmatch(found))),
    "keys": maybe(listed(lambda found: text(found) and bool(DIGEST.fullmatch(found)))),
}
_ENTRY: Fields = {
    "number": whole,
    "facts": record(_FACTS),
    "files": lambda found: table(record(_FILE))(found) and all(map(NAME.fullmatch, found)),
    "layers": lambda found: isinstance(found, list) and all(map(_is_pair, found)),
    "parent": optional(whole),
    "name": optional(text),
    "revision": maybe(whole),
}
_SETTINGS: Fields = {
    "model": optional(text),
    "height": positive,
    "width": positive,
    "editor": record(
        {
            "policy": lambda found: isinstance(found, dict),
            "backend": text,
            "dtype": lambda found: text(found) and found in WEIGHTS,
            "arithmetic": maybe(lambda found: text(found) and found in ARITHMETIC),
            "scheduler": maybe(text),
            "upsamplings": maybe(positive),
            "vae": maybe(text),
            "loras": maybe(table(text)),
        }
    ),
}
_BODY: Fields = {
    "kind": text,
    "settings": record(_SETTINGS),
    "storage": lambda found: text(found) and found in DTYPES,
    "networks": table(record({"program": text, "weights": text, "backend": text})),
    "versions": lambda found: isinstance(found, list) and bool(found) and all(map(record(_ENTRY), found)),
    "current": whole,
    "tip": whole,
}


def _is_pair(found: Any) -> bool:
    return isinstance(found, list) and len(found) == 2 and all(map(text, found))


def _manifest(body: dict[str, Any], light: bool) -> Manifest:
    """From the content of a file, of a `light` session or another one. ValueError naming what cannot be in it."""
    bad = [*wrong(body, _BODY), *(body.keys() - _BODY.keys())]
    if bad:
        settings = body.get("settings")
        inside = [f"settings: {each}" for each in wrong(settings, _SETTINGS)] if isinstance(settings, dict) else []
        raise ValueError(f"no session has such {', '.join(inside or bad)}")
    entries = tuple(_entry(each, light) for each in body["versions"])
    history = History(entries)
    if not history.is_tree or max(body["current"], body["tip"]) >= len(entries):
        raise ValueError("its versions contradict each other")
    networks = {name: {**net, "policy": policy_fields(net.get("policy"))} for name, net in body["networks"].items()}
    editor = body["settings"]["editor"]
    settings = {**body["settings"], "editor": {**editor, "policy": policy_fields(editor["policy"])}}
    return Manifest(body["kind"], settings, body["storage"], networks, entries, body["current"], body["tip"], light)


def _as_tree(body: dict[str, Any]) -> dict[str, Any]:
    """The content of a file that says of no version what it was made from: that is the one before it."""
    parents = [None, *(entry["number"] for entry in body["versions"])][: len(body["versions"])]
    entries = [{**entry, "parent": p, "name": None} for entry, p in zip(body["versions"], parents, strict=True)]
    return {**body, "versions": entries, "tip": len(entries) - 1}


def _entry(found: dict[str, Any], light: bool) -> Entry:
    layers = tuple((name, file) for name, file in found["layers"])
    missing = ({PICTURE, *(() if light else (TENSORS,))} | {file for _, file in layers}) - found["files"].keys()
    expected = [(name, layer_file(name, place)) for place, (name, _) in enumerate(layers)]
    if missing or list(layers) != expected or (light and layers):
        raise ValueError(f"version {found['number']} lacks {', '.join(sorted(missing)) or 'the names of its layers'}")
    revision = found.get("revision", 0)
    return Entry(found["number"], found["facts"], layers, found["files"], found["parent"], found["name"], revision)


def folder_name(number: int, revision: int = 0) -> str:
    """The folder of a version, of its own for each revision: what is there is not written again."""
    return f"{number:04d}-{revision}" if revision else f"{number:04d}"


def layer_file(name: str, place: int) -> str:
    """The file of the layer that a version added in that place."""
    return f"{place:03d}-{name}.safetensors"
