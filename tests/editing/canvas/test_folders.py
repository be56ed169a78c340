"""Canvases in folders: every edit kept, viewports put away and found again, what was altered is noticed."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import retouch
from editing.canvas.test_canvas import STEPS, canvas, edited, photograph, stroke
from editing.diffusion.test_session import editor
from editing.live import SPARSE
from manifests import alter
from retouch import ArchiveError
from retouch.editing.canvas import saved
from retouch.editing.canvas.picture import Picture
from retouch.editing.canvas.versions import _loaded


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "canvas"


def reopened(folder):
    return retouch.open(folder, editor=editor("ddpm", SPARSE))


def test_every_edit_is_kept_and_undone_in_order_after_reopening(folder):
    shown = canvas(folder=folder)
    states = [shown.pixels]
    for place in ((10, 10), (80, 120), (12, 12)):
        edited(shown, *place)
        states.append(shown.pixels)
    shown.undo()
    shown.close()
    with reopened(folder) as again:
        assert np.array_equal(again.pixels, states[2])
        assert np.array_equal(np.asarray(again.redo()), states[3])
        for state in reversed(states[:-1]):
            assert np.array_equal(np.asarray(again.undo()), state)
        again.go(3)
        found = edited(again, 14, 14)
        assert "record" not in found.seconds, "viewports are there again"


def test_saving_later_keeps_depth_alpha_and_all_branches(folder):
    levels = np.random.default_rng(0).integers(0, 65536, (60, 70, 4)).astype(np.uint16)
    shown = canvas(levels)
    edited(shown, 20, 30)
    shown.undo()
    edited(shown, 40, 10)
    current, other = shown.picture.levels.copy(), None
    shown.save(folder)
    assert np.array_equal(shown.picture.levels, current)
    shown.go(1)
    other = shown.picture.levels.copy()
    shown.close()
    with reopened(folder) as again:
        assert again.picture.levels.dtype == np.uint16
        assert np.array_equal(again.picture.levels, other)
        again.go(2)
        assert np.array_equal(again.picture.levels, current)


def test_what_was_altered_on_disk_is_noticed(folder):
    shown = canvas(folder=folder)
    edited(shown, 50, 60)
    shown.close()
    tensors = folder / "versions" / "0001" / "tensors.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(ArchiveError, match="altered"):
        reopened(folder)


def test_settings_that_no_canvas_has_are_refused(folder):
    shown = canvas(folder=folder)
    edited(shown, 50, 60)
    shown.close()
    alter(folder, lambda found: found["settings"].update(viewport=[32]))
    with pytest.raises(ArchiveError, match="viewport"):
        reopened(folder)


def test_a_lost_viewport_is_recorded_again(folder):
    shown = canvas(folder=folder)
    edited(shown, 50, 60)
    state = shown.pixels
    shown.close()
    for lost in (folder / "views").iterdir():
        shutil.rmtree(lost)
    with reopened(folder) as again:
        assert np.array_equal(again.pixels, state)
        drawn = stroke(again, 52, 62)
        again.edit(drawn, plan="sparse")
        assert len(again.pool.views) == 1


def test_the_least_recently_used_viewports_go_to_files_and_then_away(tmp_path):
    made = retouch.Editor(editor("ddpm", SPARSE).model.pipe, policy=SPARSE, memory=6_000_000, folder=tmp_path)
    made.model = editor("ddpm", SPARSE).model
    shown = made.canvas(photograph(), disk=9_000_000, **STEPS)
    for place in ((10, 10), (80, 120), (10, 120), (80, 10)):
        edited(shown, *place)
    live = [view.session is not None for view in shown.pool.views]
    assert live.count(True) == 1
    assert len(live) < 4, "the first is gone"
    assert shown.store.in_memory <= shown.store.budget
    found = edited(shown, 12, 118)
    assert "record" not in found.seconds, "from its file"
    assert shown.pool.views[-1].session is not None
    shown.close()
    assert not list(tmp_path.iterdir())


def test_info_tells_of_a_canvas(folder):
    shown = canvas(folder=folder)
    edited(shown, 50, 60)
    report = json.loads(json.dumps(shown.info(), default=str))
    assert [version["edit"] for version in report["versions"]] == ["opened", "edit"]
    shown.close()


def test_expanded_canvases_are_saved_and_found_again(folder):
    shown = canvas(folder=folder)
    edited(shown, 50, 60)
    before = shown.pixels
    shown.expand(right=6, bottom=3, plan="whole")
    after = shown.pixels
    shown.close()
    with reopened(folder) as again:
        assert np.array_equal(again.pixels, after)
        again.go(1)
        assert np.array_equal(again.pixels, before)
        again.go(3)
        assert np.array_equal(again.pixels, after)


def test_changes_that_do_not_lie_in_the_picture_are_refused(tmp_path):
    picture = Picture(np.zeros((8, 9, 3), np.uint8))
    patch = picture.put((slice(2, 6), slice(3, 9)), np.full((4, 6, 3), 7, np.uint8), np.ones((4, 6)))
    tensors, archive = saved.of_patch(patch, picture), SimpleNamespace(path=tmp_path)
    found, shape = _loaded(archive, tensors, (8, 9, 3))
    assert (found.levels[0:24] == 7).all()
    assert shape == (8, 9, 3)
    with pytest.raises(ArchiveError, match="does not lie in the picture"):
        _loaded(archive, tensors, (8, 8, 3))
    larger = saved.of_picture(picture, (slice(1, 7), slice(0, 9)))
    assert saved.fits(larger, first=False)
    assert _loaded(archive, larger, (6, 9, 3))[1] == (8, 9, 3)
    for before in ((6, 8, 3), (6, 9, 4)):
        with pytest.raises(ArchiveError, match="does not lie in the picture"):
            _loaded(archive, larger, before)
    assert not saved.fits({**tensors, "levels": tensors["levels"][1:]}, first=False)
    assert not saved.fits(tensors, first=True)
