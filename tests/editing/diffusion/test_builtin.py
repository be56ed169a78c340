"""The built-in models."""

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
