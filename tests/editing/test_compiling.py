"""How far networks are is told while they are compiled, also when a session is opened again."""

from pathlib import Path

import pytest

from editing.gan.test_upscaler import upscaler
from pipelines import picture, pipeline
from retouch import Canvas, Editor
from retouch.editing.compiling import TWICE
from retouch.editing.diffusion.canvases import Canvases

EDITORS = {"network": lambda: upscaler("rrdbnet"), "pipeline": lambda: Editor(pipeline("sd"), policy="fast")}


class Told:
    def __init__(self) -> None:
        self.parts: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int, text: str) -> None:
        if text == "preparing the networks":
            self.parts.append((done, total))


def of_a_new_one(editor, folder, told):
    editor.open(picture("sd"), folder=folder, progress=told).close()


def of_a_saved_one(editor, folder, told):
    editor.open(picture("sd"), folder=folder).close()
    EDITORS["network" if "Upscaler" in repr(type(editor)) else "pipeline"]().restore(folder, told).close()


@pytest.mark.parametrize("opening", [of_a_new_one, of_a_saved_one])
@pytest.mark.parametrize("kind", EDITORS)
def test_parts_grow_up_to_those_of_the_networks(tmp_path: Path, kind, opening):
    told = Told()
    opening(EDITORS[kind](), tmp_path / "session", told)
    done, (total, *others) = [part for part, _ in told.parts], {total for _, total in told.parts}
    assert not others
    assert done == sorted(done)
    assert len(set(done)) > 5
    assert TWICE * total / 4 < max(done) < total


def test_canvases_tell_it_too(tmp_path):
    Editor(pipeline("ddpm"), policy="fast").canvas(picture("ddpm"), folder=tmp_path / "canvas").close()
    told = Told()
    found = Canvases(Editor(pipeline("ddpm"), policy="fast")).restore(tmp_path / "canvas", told)
    assert isinstance(found, Canvas)
    assert len(set(told.parts)) > 5
    found.close()
