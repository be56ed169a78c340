"""What `retouch edit` is asked for, checked before anything long begins."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, cast, get_args

import typer

from retouch.cli.common import Storage, byte_count, check_device, check_picture_file, known_policies, note
from retouch.cli.saved import Saved, check_outside

if TYPE_CHECKING:
    from retouch.editing.gan.labels import Labels
    from retouch.editing.images import Pixels
    from retouch.plan.region import Mask

SchedulerName = Literal["ddim", "ddpm", "dpm++", "euler", "euler-a", "pndm"]

STEPS, STRENGTH, GUIDANCE, SEED, POLICY = 20, 0.6, 7.5, 0, "balanced"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
MOST = 0.5
CHECKPOINTS = (".pth", ".pt", ".safetensors")
"""Suffixes of files that hold a generator of pictures from labels."""
AREAS = "areas"
"""Instead of a map of instances: every area of one label is one."""

Kind = Literal["diffusion", "upscale", "labels"]


@dataclass(frozen=True)
class Fixed:
    """Options that a session keeps from its recording; None: not given."""

    steps: int | None = None
    seed: int | None = None
    guidance: float | None = None
    scheduler: SchedulerName | None = None
    policy: str | None = None
    storage: Storage | None = None

    def check(self) -> None:
        """ValueError for values that no recording takes."""
        if self.guidance is not None and not 0 <= self.guidance < math.inf:
            raise ValueError(f"a guidance of {self.guidance:g} is not 0 or more")
        if self.seed is not None and self.seed >= 2**63:
            raise ValueError(f"a seed of {self.seed} is not below 2**63")
        if self.policy is not None:
            known_policies([self.policy])

    def check_against(self, saved: Saved) -> None:
        """ValueError for what is not as the session was recorded."""
        from retouch.plan.policy import Policy

        editor = saved.settings["editor"]
        recorded = {**saved.settings, **editor, "policy": editor["policy"]["name"], "storage": saved.storage}
        for field in fields(self):
            given = getattr(self, field.name)
            if given is None:
                continue
            like = given == recorded.get(field.name)
            if field.name == "policy":
                like = json.loads(json.dumps(asdict(Policy.named(given)))) == editor["policy"]
            if not like:
                raise ValueError(
                    f"--{field.name}: the session {saved.folder} was recorded with {recorded.get(field.name)} and "
                    "keeps to it; leave the option away, or record the picture in another folder"
                )


class Machine(TypedDict):
    """What editors are told about the machine, as they name it."""

    memory: int | None
    device_memory: int | None
    device: str


@dataclass(frozen=True)
class Instances:
    """Ids of instances [H, W]. `before` None: the session has them, or there are none; `after`: the same as before."""

    before: Labels | None = None
    after: Labels | None = None

    @staticmethod
    def read(files: Sequence[Path], size: tuple[int, int], model: str | None, saved: Saved | None) -> Instances:
        """From the arguments of --instances, for labels of `size` (H, W). ValueError when they do not fit."""
        from retouch.editing.images import as_integers

        areas = files == [Path(AREAS)]
        if saved is None and not files:
            raise ValueError(
                f"{model} reads the edges of instances: name their map with --instances, or write "
                f"--instances {AREAS} where every area of one label is one"
            )
        if saved is not None and files:
            _check_alike(saved, areas)
        if len(files) > (2 if saved is None else 1):
            raise ValueError("--instances names one map for ORIGINAL and one for EDITED; a session has ORIGINAL's")
        maps: list[Labels | None] = [] if areas else [as_integers(file, size) for file in files]
        return Instances(*maps) if saved is None else Instances(None, *maps)


@dataclass(frozen=True)
class Request:
    """An edit that can be made, as far as can be told without the model. `saved`: the session that exists.

    `before` and `after` are what is edited: pictures, or maps of labels in grey.
    """

    kind: Kind
    output: Path
    preview: Path | None
    before: Pixels
    after: Pixels
    instances: Instances
    mask: Mask | None
    model: str | None
    prompt: str | None
    negative: str | None
    strength: float | None
    max_error: float | None
    fixed: Fixed
    machine: Machine
    session: Path | None
    saved: Saved | None

    @staticmethod
    def checked(
        original: Path,
        edited: Path,
        output: Path,
        model: str | None,
        prompt: str | None,
        negative: str | None,
        strength: float | None,
        max_error: float | None,
        instances: Sequence[Path],
        mask: Path | None,
        fixed: Fixed,
        memory: str | None,
        device_memory: str | None,
        device: str,
        session: Path | None,
        preview: Path | None,
        force: bool,
    ) -> Request:
        """From the command's arguments. ValueError for wrong ones, ArchiveError for a session that is damaged."""
        from retouch.editing.archive import MANIFEST
        from retouch.editing.images import as_mask, as_pixels

        fixed.check()
        if strength is not None and not 0 < strength <= 1:
            raise ValueError(f"a strength of {strength:g} is not above 0 and at most 1")
        check_device(device)
        machine: Machine = {"memory": byte_count(memory), "device_memory": byte_count(device_memory), "device": device}
        _check_outputs([output, preview], [original, edited, mask, *instances], session, force)
        saved = Saved.read(session) if session is not None and (session / MANIFEST).exists() else None
        name = _model_name(model, saved)
        kind = _kind(name, saved)
        read = _grey_labels if kind == "labels" else as_pixels
        before, after = read(original), read(edited)
        if before.shape != after.shape:
            raise ValueError(f"{original} is {_size(before)} pixels and {edited} {_size(after)}; they must be alike")
        region = None if mask is None else as_mask(mask, before.shape[:2])
        if saved is not None:
            fixed.check_against(saved)
            _check_current(saved, original, before)
        elif session is not None:
            _check_new(session)
        if kind != "diffusion":
            _refuse_steps(fixed, {"prompt": prompt, "negative": negative, "strength": strength, "max-error": max_error})
        things = Instances()
        if kind == "labels":
            things = Instances.read(instances, before.shape[:2], model, saved)
        elif instances:
            raise ValueError("--instances goes with models that make pictures from labels")
        request = Request(
            kind,
            output,
            preview,
            before,
            after,
            things,
            region,
            name,
            prompt,
            negative,
            strength,
            max_error,
            fixed,
            machine,
            session,
            saved,
        )
        if kind == "labels" and saved is not None:
            request.check_labels(saved.settings["labels"])
        return request

    def check_labels(self, count: int) -> None:
        """ValueError for labels that are not below `count`."""
        from retouch.editing.gan.labels import checked_labels

        for name, pixels in {"ORIGINAL": self.before, "EDITED": self.after}.items():
            try:
                checked_labels(pixels, count)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    @property
    def changed(self) -> Mask:
        """Where the two differ: in pictures visibly, in labels at all."""
        from retouch.editing.images import difference

        return (
            difference(self.before, self.after, 0.0) if self.kind == "labels" else difference(self.before, self.after)
        )

    @property
    def idle(self) -> bool:
        """True when nothing is to be computed: no difference, mask or words, and nothing to be recorded for later."""
        if self.kind != "diffusion" or self.mask is not None or (self.session is not None and self.saved is None):
            return False
        words = self.saved is not None and (self.prompt is not None or self.negative is not None)
        return not words and not self.changed.any()

    def warnings(self) -> list[str]:
        """What the user may not have meant."""
        changed = self.changed
        if self.mask is not None:
            outside = int((changed & ~self.mask).sum())
            return [f"{outside} pixels differ outside the mask and stay as they were"] if outside else []
        if (share := float(changed.mean())) > MOST:
            return [f"the pictures differ in {share:.0%} of their pixels (JPEG files do everywhere); --mask limits it"]
        return []


@contextmanager
def interruptible(session: Path | None) -> Iterator[None]:
    """Exit with 130 and one line on Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as error:
        from retouch.editing.archive import MANIFEST

        kept = session is not None and (session / MANIFEST).exists()
        note(f"interrupted; {f'the session {session} keeps its last state' if kept else 'nothing is kept'}")
        raise typer.Exit(130) from error


def _check_outputs(outputs: list[Path | None], inputs: list[Path | None], session: Path | None, force: bool) -> None:
    written = [path for path in outputs if path is not None]
    for path in written:
        check_picture_file(path)
        if session is not None:
            check_outside(path, session)
        if not force and any(other and _same(path, other) for other in inputs):
            raise ValueError(f"{path} is a file that the edit reads; name another one, or overwrite it with --force")
    if len(written) == 2 and _same(*written):
        raise ValueError(f"result and preview cannot both be written to {written[0]}")


def _check_current(saved: Saved, name: Path, before: Pixels) -> None:
    import numpy as np

    from retouch.editing.images import as_pixels

    def same(place: int) -> bool:
        return np.array_equal(as_pixels(saved.versions[place].source), before)

    if same(saved.current):
        return
    found = next(filter(same, range(len(saved.versions))), None)
    if found is None:
        raise ValueError(
            f"{name} is not the current picture of the session {saved.folder}; that is {saved.version.source} "
            f"(`retouch info {saved.folder}` lists its versions, `retouch undo {saved.folder} -o FILE` goes back)"
        )
    command = f"`retouch {'undo' if found < saved.current else 'redo'} {saved.folder}`"
    times = "" if abs(found - saved.current) == 1 else f" {abs(found - saved.current)} times"
    raise ValueError(
        f"{name} is version {saved.versions[found].number} of the session {saved.folder}, which is at version "
        f"{saved.version.number}; go there first: {command}{times}"
    )


def _check_alike(saved: Saved, areas: bool) -> None:
    """ValueError for a map of instances where the session has none, and for none where it has one."""
    if saved.settings["instances"] == areas:
        how = "with" if saved.settings["instances"] else "without"
        raise ValueError(
            f"--instances: the session {saved.folder} was recorded {how} a map of instances and keeps to it; leave the "
            "option away, or record the labels in another folder"
        )


def _check_new(folder: Path) -> None:
    """ValueError unless a session can be made there."""
    from retouch.editing.archive import unused

    if folder.is_dir() and not unused(folder):
        raise ValueError(f"the folder {folder} holds no session and is not empty; name a new one")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"cannot make the session folder {folder}: {there} is no folder that can be written to")


def _kind(model: str | None, saved: Saved | None) -> Kind:
    """What kind of session a model makes, or the saved one is. ValueError for one that this version does not know."""
    from retouch.editing.gan.upscaler import PRETRAINED

    if saved is not None:
        if saved.kind not in get_args(Kind):
            raise ValueError(f"the session {saved.folder} is of the kind {saved.kind!r}, which cannot be edited here")
        return cast(Kind, saved.kind)
    if model in PRETRAINED:
        return "upscale"
    return "labels" if str(model).endswith(CHECKPOINTS) else "diffusion"


def _grey_labels(path: Path) -> Pixels:
    """A map of labels as a grey picture. ValueError for labels that are not 0 to 255."""
    import numpy as np

    from retouch.editing.images import as_integers

    ids = as_integers(path)
    if ids.min() < 0 or ids.max() > 255:
        raise ValueError(f"{path} holds labels from {ids.min()} to {ids.max()}; labels are 0 to 255")
    return np.repeat(ids.astype(np.uint8)[..., None], 3, 2)


def _refuse_steps(fixed: Fixed, others: dict[str, object]) -> None:
    """ValueError for options of models that sample in steps."""
    given = {"steps": fixed.steps, "seed": fixed.seed, "guidance": fixed.guidance, "scheduler": fixed.scheduler}
    for name, value in {**given, **others}.items():
        if value is not None:
            raise ValueError(f"--{name} does not go with a model that runs once, without noise or words")


def _model_name(model: str | None, saved: Saved | None) -> str | None:
    """A built-in or hub name as it is, a folder as an absolute path. ValueError if it is neither, or missing."""
    from retouch.editing.gan.upscaler import PRETRAINED
    from retouch.models.builtin import PIPELINES

    if model is None:
        if saved is None:
            raise ValueError(
                "no model: name one with --model, the folder or hub name of a diffusers pipeline for example"
            )
        known = saved.settings["model"]
        if not known:
            raise ValueError(f"the session {saved.folder} does not say which model it was recorded with; add --model")
        if os.path.isabs(str(known)) and not Path(known).exists():
            raise ValueError(f"the model {known} of the session {saved.folder} is gone; say with --model where it is")
        return None
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ValueError(f"the folder {model} holds no diffusers pipeline (model_index.json is missing)")
        return os.path.abspath(folder)
    if folder.exists() and folder.suffix not in CHECKPOINTS:
        raise ValueError(
            f"{model} is a file; a model is the folder or hub name of a diffusers pipeline, or one of "
            f"weights ({', '.join(CHECKPOINTS)}) that makes pictures from labels"
        )
    if folder.exists():
        return os.path.abspath(folder)
    builtin = (*PIPELINES, *PRETRAINED)
    if model.startswith("builtin/") and model not in builtin:
        raise ValueError(f"unknown built-in model {model!r}; there are {', '.join(builtin)}")
    if not HUB_NAME.fullmatch(model):
        raise ValueError(f"there is no folder {model}")
    return model


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
