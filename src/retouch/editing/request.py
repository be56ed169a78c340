"""An edit of pictures in files, checked as far as can be without the model, before anything long begins."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retouch.editing import kinds, saved
from retouch.editing.archive import Progress, unused
from retouch.editing.area import Area
from retouch.editing.canvas.canvas import Canvas
from retouch.editing.canvas.drawing import Composed
from retouch.editing.canvas.picture import Picture
from retouch.editing.diffusion.editor import Editor
from retouch.editing.forms import CONDITIONS, MACHINE, RECORDED, check_labels
from retouch.editing.gan.labels import Labels
from retouch.editing.images import Pixels, Strengths, as_integers, as_strengths, difference
from retouch.editing.kinds import AnySession, Kind, kind_of, located
from retouch.editing.manifest import MANIFEST
from retouch.editing.saved import Saved
from retouch.editing.version import Edited
from retouch.errors import OptionError
from retouch.kernels.devices import usable
from retouch.plan.policy import Policy
from retouch.plan.region import Mask

MOST = 0.5
AREAS = "areas"
"""Instead of a map of instances: every area of one label is one."""


@dataclass(frozen=True)
class Request:
    """An edit that can be made.

    files: of what is edited, before and after; read as pictures, or maps of labels in grey. mask: as the kind's form
    reads it.
    given: the options that were given, by name. areas: parts with words of their own.
    instances: of labels, ids `[H, W]` before and after (None: as they are, or none). saved: the session that exists.
    """

    kind: Kind
    files: tuple[Path, Path]
    before: Pixels
    after: Pixels
    mask: Mask | Strengths | None
    areas: tuple[Area, ...]
    instances: tuple[Labels | None, Labels | None]
    model: str | None
    given: Mapping[str, Any]
    session: Path | None
    saved: Saved | None

    @staticmethod
    def checked(
        original: Path, edited: Path, model: str | None, session: Path | None, options: Mapping[str, Any]
    ) -> Request:
        """From files and options by name, those that are None not given; `mask` is a file, `instances` are some.

        Raises OptionError, ImageError or ValueError for what is wrong, ArchiveError for a session that is damaged.
        """
        given = {name: value for name, value in options.items() if value is not None}
        _check_values(given)
        saved = Saved.read(session) if session is not None and (session / MANIFEST).exists() else None
        if model is None:
            _check_model_of(saved)
        name = None if model is None else located(model)
        kind = saved.kind if saved is not None else kind_of(name or "")
        before, after = kind.form.read(original), kind.form.read(edited)
        if before.shape != after.shape:
            raise OptionError(f"{original} is {_size(before)} pixels and {edited} {_size(after)}; they must be alike")
        size = (before.shape[0], before.shape[1])
        mask = None if "mask" not in given else kind.form.mask(given["mask"], size)
        if saved is not None:
            _check_recorded(saved, given)
            if saved.kind.sessions is not Canvas:
                _check_current(saved, original, before)
        elif session is not None:
            _check_new(session)
        kind.form.refuse_others(given)
        areas = tuple(_area(asked, size) for asked in given.get("area", ()))
        instances = (
            _instances(given.pop("instances", ()), size, model, saved) if _takes_instances(kind) else (None,) * 2
        )
        if saved is not None and _takes_instances(kind):
            check_labels({"ORIGINAL": before, "EDITED": after}, saved.manifest.settings["labels"])
        return Request(kind, (original, edited), before, after, mask, areas, instances, name, given, session, saved)

    # What it does

    def open(self, progress: Progress) -> AnySession:
        """The session in the folder, or a new one with the original recorded; a canvas for a picture of a size that the
        model does not take. OptionError where the model refuses.
        """
        form = self.kind.form
        if self.saved is not None:
            machine = self._only(MACHINE | {"vae", "lora"})
            session = saved.open(self.saved.folder, model=self.model, progress=progress, **machine)
            if isinstance(session, Canvas):
                self._check_canvas(session)
            return session
        editor = kinds.load(str(self.model), **self._only(form.loading))
        form.check(editor, {"ORIGINAL": self.before, "EDITED": self.after}, dict(self.given))
        options = self._only(form.opening) | self._taken("instances", self.instances[0])
        if isinstance(editor, Editor) and not editor.takes((self.before.shape[0], self.before.shape[1])):
            return editor.canvas(self.files[0], folder=self.session, **options, **self._only(form.composing))
        return editor.open(self.before, folder=self.session, progress=progress, **options)

    def edit(self, session: AnySession, progress: Progress) -> Edited | Composed:
        """Make the edit in a session from `open`."""
        known = frozenset() if self.saved is not None else CONDITIONS  # a new session was recorded with them
        options = self._only(self.kind.form.editing - known - {"mask", "area"})
        options |= self._taken("instances", self.instances[1]) | self._taken("areas", self.areas or None)
        after = self.files[1] if isinstance(session, Canvas) else self.after
        return session.edit(after, mask=self.mask, progress=progress, **options)

    def _check_canvas(self, canvas: Canvas) -> None:
        """OptionError, and the canvas closed, unless it shows the original."""
        try:
            if not np.array_equal(Picture.read(self.files[0]).levels, canvas.picture.levels):
                raise OptionError(
                    f"{self.files[0]} is not the current picture of the canvas {self.session}; "
                    f"`retouch go {self.session} {canvas.version.number} -o FILE.png` writes that to a file"
                )
        except BaseException:
            canvas.close()
            raise

    def _only(self, names: frozenset[str]) -> dict[str, Any]:
        several = {"lora": "loras", "scale": "scales"}
        return {several.get(name, name): value for name, value in self.given.items() if name in names}

    def _taken(self, name: str, value: Any) -> dict[str, Any]:
        return {} if value is None else {name: value}

    # What is known of it

    @property
    def threshold(self) -> int:
        """Grey levels by which the two may differ and count as alike."""
        recorded = None if self.saved is None else Policy(**self.saved.manifest.settings["editor"]["policy"])
        policy = recorded or (Policy.named(self.given["policy"]) if "policy" in self.given else None)
        default = self.kind.form.threshold(policy or self.kind.policy(str(self.model)))
        return int(self.given.get("threshold", default))

    @property
    def changed(self) -> Mask:
        """Where the two differ by more."""
        return difference(self.before, self.after, self.threshold)

    @property
    def region(self) -> Mask:
        """Where the picture is edited."""
        return self.changed if self.mask is None else np.asarray(self.mask > 0)

    @property
    def idle(self) -> bool:
        """True when nothing is to be computed: no difference, mask or words, and nothing to be recorded for later."""
        if not self.kind.form.alike or self.mask is not None or self.areas:
            return False
        if self.session is not None and self.saved is None:
            return False
        words = self.saved is not None and not self.given.keys().isdisjoint(CONDITIONS)
        return not words and not self.changed.any()

    def warnings(self) -> list[str]:
        """What the user may not have meant."""
        changed = self.changed
        if self.mask is not None:
            outside = int((changed & (self.mask == 0)).sum())
            return [f"{outside} pixels differ outside the mask and stay as they were"] if outside else []
        found = []
        if (share := float(changed.mean())) > MOST:
            found.append(
                f"the pictures differ in {share:.0%} of their pixels (JPEG files do everywhere); --mask limits it"
            )
        faint = int((difference(self.before, self.after, 0) & ~changed).sum())
        if faint:
            levels = self.threshold
            found.append(f"{faint} pixels differ by {levels} grey levels or less and stay as they were; --threshold 0 "
                         "edits them")  # fmt: skip
        return found


def _takes_instances(kind: Kind) -> bool:
    return "instances" in kind.form.opening


def _area(asked: str, size: tuple[int, int]) -> Area:
    """An area as the command line names it, its mask of `size` (H, W) read. OptionError when that is not how."""
    file, found, prompt = asked.partition("=")
    if not (file and found and prompt.strip()):
        raise OptionError(f"--area {asked} is not MASK=PROMPT, a picture and the words for where it is not black")
    return Area(as_strengths(file, size), prompt)


def _check_values(given: Mapping[str, Any]) -> None:
    """OptionError for values that no model takes."""
    guidance, strength = given.get("guidance", 0), given.get("strength", 1)
    if not 0 <= guidance < math.inf:
        raise OptionError(f"a guidance of {guidance:g} is not 0 or more")
    if not 0 < strength <= 1:
        raise OptionError(f"a strength of {strength:g} is not above 0 and at most 1")
    if given.get("seed", 0) >= 2**63:
        raise OptionError(f"a seed of {given['seed']} is not below 2**63")
    if {"mask", "threshold"} <= given.keys():
        raise OptionError(
            "--threshold says which differences are edited and --mask which part is: leave one of them away"
        )
    Policy.named(given.get("policy", "balanced"))
    if given.get("device", "auto") != "auto":
        usable(given["device"])


def _check_recorded(saved: Saved, given: Mapping[str, Any]) -> None:
    """OptionError for what is not as the session was recorded."""
    settings, editor = saved.manifest.settings, saved.manifest.settings["editor"]
    recorded = {**settings, **editor, "policy": editor["policy"]["name"], "storage": saved.manifest.storage}
    for name in RECORDED:
        if name not in given:
            continue
        same = given[name] == recorded.get(name)
        if name == "policy":
            same = asdict(Policy.named(given[name])) == editor["policy"]
        if name in recorded and not same:
            raise OptionError(
                f"--{name}: the session {saved.folder} was recorded with {recorded[name]} and keeps to it; leave the "
                "option away, or record the picture in another folder"
            )


def _check_current(saved: Saved, name: Path, before: Pixels) -> None:
    """OptionError unless a picture is what the session shows."""
    versions, current, folder = saved.manifest.versions, saved.manifest.current, saved.folder

    def same(place: int) -> bool:
        return np.array_equal(saved.drawn_on(versions[place]), before)

    if same(current):
        return
    found = next(filter(same, range(len(versions))), None)
    if found is None:
        raise OptionError(
            f"{name} is not the current picture of the session {folder}; that is {saved.source(versions[current])} "
            f"(`retouch info {folder}` lists its versions, `retouch undo {folder} -o FILE` goes back)"
        )
    raise OptionError(
        f"{name} is version {versions[found].number} of the session {folder}, which is at version "
        f"{versions[current].number}; go there first: `retouch go {folder} {versions[found].number}`"
    )


def _check_new(folder: Path) -> None:
    """OptionError unless a session can be made there."""
    if folder.is_dir() and not unused(folder):
        raise OptionError(f"the folder {folder} holds no session and is not empty; name a new one")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise OptionError(f"cannot make the session folder {folder}: {there} is no folder that can be written to")


def _check_model_of(saved: Saved | None) -> None:
    """OptionError unless a session says which model it was recorded with, and that is still there."""
    if saved is None:
        raise OptionError("no model: name one with --model, the folder or hub name of a diffusers pipeline for example")
    known = saved.manifest.settings["model"]
    if not known:
        raise OptionError(f"the session {saved.folder} does not say which model it was recorded with; add --model")
    if os.path.isabs(known) and not Path(known).exists():
        raise OptionError(f"the model {known} of the session {saved.folder} is gone; say with --model where it is")


def _instances(
    files: Sequence[Path], size: tuple[int, int], model: str | None, saved: Saved | None
) -> tuple[Labels | None, Labels | None]:
    """Ids of instances from files, for labels of `size` (H, W). OptionError when they do not fit."""
    areas = list(files) == [Path(AREAS)]
    if saved is None and not files:
        raise OptionError(
            f"{model} reads the edges of instances: name their map with --instances, or write "
            f"--instances {AREAS} where every area of one label is one"
        )
    if saved is not None and files and saved.manifest.settings["instances"] == areas:
        how = "with" if areas else "without"
        raise OptionError(
            f"--instances: the session {saved.folder} was recorded {how} a map of instances and keeps to it; leave the "
            "option away, or record the labels in another folder"
        )
    if len(files) > (2 if saved is None else 1):
        raise OptionError("--instances names one map for ORIGINAL and one for EDITED; a session has ORIGINAL's")
    maps: list[Labels | None] = [] if areas else [as_integers(file, size) for file in files]
    first, second = (*maps, None, None)[:2]
    return (first, second) if saved is None else (None, first)


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
