"""The built-in models."""

from dataclasses import replace

import numpy as np
import pytest

import retouch
from pipelines import painted
from retouch.models.builtin import PIPELINES

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize("folder", PIPELINES.values(), ids=PIPELINES)
def test_it_is_small_and_holds_tensors_only(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 40e6
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".txt"}


def test_it_draws_and_edits_without_a_network(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", None)
    session = retouch.Editor.from_pretrained("builtin/emoji").generate("red apple", steps=3, guidance=3)
    before = session.pixels
    assert before.shape == (128, 128, 3)
    assert before.std() > 5
    edited = session.edit(painted(before, 40, 50, 12))
    assert edited.error is not None
    assert (np.asarray(edited.image) != before)[40:52, 50:62].any()
    assert session.info()["settings"]["model"] == "builtin/emoji"


def test_areas_are_as_in_the_dense_model():
    session = retouch.Editor.from_pretrained("builtin/emoji", policy="exact").generate("red apple", steps=2, guidance=3)
    left = np.zeros(session.size, bool)
    left[30:90, 20:60] = True
    areas = [(left, "blue heart"), (left[:, ::-1], "a tree")]
    expected = np.asarray(session.reference(areas=areas).image).astype(int)
    assert np.abs(np.asarray(session.edit(areas=areas).image) - expected).max() <= 1


def test_an_exact_edit_of_the_transformer_equals_the_dense_one():
    session = retouch.load("builtin/emoji-dit", policy="exact").generate("red apple", steps=2, guidance=3)
    assert not [fallback for net in session.networks().values() for fallback in net.explain().fallbacks]
    stroke = painted(session.pixels, 40, 50, 12)
    expected = np.asarray(session.reference(stroke).image).astype(int)
    found = np.asarray(session.edit(stroke).image).astype(int)
    assert (found != session.versions[0].pixels).any()
    assert np.abs(found - expected).max() <= 1


@pytest.fixture(scope="module")
def apple():
    """What the transformer draws in two steps."""
    return retouch.load("builtin/emoji-dit").generate("red apple", steps=2, guidance=3).pixels


@pytest.mark.parametrize("text", ["recorded", 2])
def test_texts_that_are_recorded_change_what_an_edit_of_the_transformer_makes_a_little(apple, text):
    stroke = painted(apple, 40, 50, 12)
    made = {}
    for kept in ("recomputed", text):
        policy = replace(retouch.Policy.named("fast"), text=kept, crossover=1.0)
        session = retouch.load("builtin/emoji-dit", policy=policy).open(apple, prompt="red apple", steps=4)
        made[kept] = np.asarray(session.edit(stroke).image).astype(int)
        dense = np.asarray(session.reference(stroke).image).astype(int)
        session.undo()
    difference = np.abs(made[text] - made["recomputed"])
    assert difference.max() > 0
    assert difference.mean() < np.abs(dense - apple).mean()
