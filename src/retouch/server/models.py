"""The models that a server was started with; callers can name no others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from retouch.editing.canvas.canvas import Canvas
from retouch.editing.diffusion.editor import Editor
from retouch.editing.gan.labels import LabelEditor
from retouch.editing.gan.upscaler import Upscaler
from retouch.editing.kinds import AnyEditor, load
from retouch.editing.sheets import coloured
from retouch.errors import OptionError, RetouchError
from retouch.models.super_resolution import SCALE
from retouch.server.problems import Problem

T = TypeVar("T", bound=np.generic)

LEAST, MOST = 1 / 2, 3 / 2
"""Times the pixels that a model was trained for, between which it is shown a picture whole."""


class Models:
    """Editors by the names that callers use. The first one is taken where none is named."""

    def __init__(self, editors: Mapping[str, AnyEditor]) -> None:
        if not editors:
            raise OptionError("a server needs a model")
        self.editors = dict(editors)

    @staticmethod
    def loaded(names: Sequence[str], **options: Any) -> Models:
        """Models by their names as for `retouch.load`, which takes the options, called by their `label`. OptionError
        naming one that cannot be loaded, or that is called as another one.
        """
        found: dict[str, AnyEditor] = {}
        for name in names:
            try:
                editor = load(name, **options)
            except RetouchError as error:
                raise OptionError(f"the model {name} cannot be loaded: {error}") from error
            shown = label(editor.name or name)
            if shown in found:
                raise OptionError(f"two models are called {shown}; rename the folder of one")
            found[shown] = editor
        return Models(found)

    def named(self, name: str | None) -> AnyEditor:
        """The editor of that name, or the first; Problem 422 for others."""
        found = self.editors.get(name or next(iter(self.editors)))
        if found is None:
            raise Problem(422, f"there is no model {name!r} here; there are {', '.join(self.editors)}")
        return found

    def name_of(self, settings: Mapping[str, Any]) -> str:
        """What callers call the model of a saved session; Problem 409 when it is not here."""
        for name, editor in self.editors.items():
            if editor.name == settings["model"]:
                return name
        raise Problem(409, "the session was made with a model that this server was not started with")

    def described(self) -> list[dict[str, Any]]:
        """All of them as plain data."""
        return [{"name": name, **describe(editor)} for name, editor in self.editors.items()]


def label(model: str) -> str:
    """What callers call a model: a name of the hub or a built-in one as it is, of a path the last part."""
    path = Path(model)
    return path.stem if path.is_absolute() else model


def describe(editor: AnyEditor) -> dict[str, Any]:
    """What a model is and can do."""
    facts: dict[str, Any] = {"kind": editor.sessions.kind, "capabilities": capabilities(editor, editor.sessions.kind)}
    if isinstance(editor, Editor):
        facts["size"] = list(editor.model.default_size)
    return facts


def capabilities(editor: AnyEditor, kind: str) -> dict[str, Any]:
    """What the page offers in sessions of a kind."""
    diffusion = isinstance(editor, Editor)
    labels = None
    if isinstance(editor, LabelEditor):
        colours = coloured(np.arange(editor.count)[None])[0]
        labels = [{"index": i, "name": f"label {i}", "colour": "#{:02x}{:02x}{:02x}".format(*colour)}
                  for i, colour in enumerate(colours)]  # fmt: skip
    return {
        "prompt": isinstance(editor, Editor) and editor.model.reads_text,
        "inpaint": diffusion,
        "generate": diffusion,
        "variants": diffusion,
        "canvas": kind == Canvas.kind,
        "any_size": diffusion,
        "labels": labels,
        "instances": isinstance(editor, LabelEditor),
        "areas": isinstance(editor, Editor) and editor.model.reads_text,
        "scale": scale_of(kind),
    }


def scale_of(kind: str) -> int:
    """How much larger the pictures of a kind of session are than what is painted on."""
    return SCALE if kind == Upscaler.sessions.kind else 1


def multiple_of(editor: AnyEditor) -> int:
    """What width and height must be multiples of."""
    if isinstance(editor, Editor):
        return editor.model.multiple
    return editor.module.multiple if isinstance(editor, LabelEditor) else 1


def shows_whole(editor: Editor, size: tuple[int, int]) -> bool:
    """Whether a picture of a size (H, W) is a session unless somebody asks for a canvas: one that the network divides,
    of about as many pixels as it was trained for.
    """
    trained = math.prod(editor.model.default_size)
    return editor.takes(size) and LEAST * trained <= math.prod(size) <= MOST * trained


def cropped(editor: AnyEditor, source: npt.NDArray[T]) -> npt.NDArray[T]:
    """The middle of a picture, of the largest size that the model divides; Problem 422 where there is none."""
    step = multiple_of(editor)
    height, width = (side // step * step for side in source.shape[:2])
    if not height or not width:
        raise Problem(422, f"a picture needs {step}x{step} pixels or more, not {source.shape[1]}x{source.shape[0]}")
    top, left = (source.shape[0] - height) // 2, (source.shape[1] - width) // 2
    return source[top : top + height, left : left + width]
