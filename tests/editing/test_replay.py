"""Versions without layers: which are dropped, and that they are the same when they are made again."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import retouch
from editing.diffusion.test_session import editor
from editing.gan.test_upscaler import upscaler
from editing.live import SPARSE, WAIT, session
from manifests import alter
from pipelines import painted
from retouch import ArchiveError, ReplayWarning, SessionError
from retouch.editing.calls import Calls
from retouch.editing.manifest import FORMAT, LIGHT, MANIFEST, Manifest
from retouch.editing.replay import held, layers_of
from retouch.editing.saved import Saved
from retouch.runtime.state import folding

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("error::retouch.ReplayWarning"),
]


@pytest.fixture
def folds(monkeypatch):
    """Layers are folded after each edit, so that versions have little in common."""
    monkeypatch.setattr(folding, "MOST", 1)


def rows(live):
    """Everything that an update of the current version could read."""
    return {
        (name, value.name): found.rows(value)
        for name, found in live.version.snapshots.items()
        for value in found.net.plan.kept
    }


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def white(live, *place):
    mask = np.zeros(live.size, np.uint8)
    mask[place] = 255
    return mask


LEFT, RIGHT = np.s_[4:12, 2:9], np.s_[16:24, 16:28]


def drawn(live):
    live.edit(painted(live.pixels), max_error=0.0)


def inpainted(live):
    mask = white(live, *LEFT)
    mask[6:9] //= 2  # joins later
    live.inpaint(mask, blend="multiband")


def worded(live):
    live.edit(prompt="b a", mask=white(live, *RIGHT), negative="c")


def of_areas(live):
    live.edit(areas=[(white(live, *LEFT), "c"), (white(live, *RIGHT), "d", "e")])


def chosen(live):
    live.variants(3, painted(live.pixels)).choose(2)


def refined(live):
    list(live.submit(painted(live.pixels), refine="dense"))


def grown(live):
    list(live.submit(painted(live.pixels), refine="step"))


def taken(live):
    live.adopt(painted(live.pixels, 2, 3), white(live, *LEFT))


EDITS = [
    ("ddpm", (drawn, refined, taken, grown)),
    ("sd", (inpainted, worded, of_areas, chosen)),
    ("inpaint", (inpainted, taken, drawn)),
]


@pytest.mark.parametrize(("name", "edits"), EDITS, ids=[name for name, _ in EDITS])
def test_every_edit_is_made_again_bit_for_bit(name, edits):
    live = session(name)
    for edit in edits:
        edit(live)
        before = rows(live), live.pixels, live.version.tensors
        live.edit(painted(live.pixels, 20, 20, 4))
        live.undo()
        live._history = live.history.replaced(live.version.dropped())
        assert not live.version.snapshots
        live.ready()
        assert same(rows(live), before[0])
        assert all(torch.equal(tensor, before[2][name]) for name, tensor in live.version.tensors.items())


def test_old_edits_are_dropped_and_what_follows_undo_is_what_would_have_followed(folds):
    live, plain = session(), session()
    live.store.history = 0
    for step in range(4):
        for each in (live, plain):
            each.edit(painted(each.pixels, 4 * step, 3 * step, 4))
    assert [bool(version.snapshots) for version in live.versions] == [True, False, False, False, True]
    assert all(version.snapshots for version in plain.versions)
    for each in (live, plain):
        each.go(2)
    assert not live.version.snapshots
    assert np.array_equal(live.pixels, plain.pixels)  # seen before anything is computed
    for each in (live, plain):
        each.edit(painted(each.pixels, 20, 20))
    assert np.array_equal(live.pixels, plain.pixels)
    assert same(rows(live), rows(plain))


def test_versions_of_what_the_current_one_needs_anyway_stay():
    live = session()
    live.store.history = 0
    for step in range(4):
        live.edit(painted(live.pixels, 4 * step))
    assert all(version.snapshots for version in live.versions)
    live.undo()  # the last one has a layer that this one has not
    assert [bool(version.snapshots) for version in live.versions] == [True] * 4 + [False]


def test_a_session_holds_no_more_than_its_budget(folds):
    live = session()
    live.edit(painted(live.pixels, 0, 0, 4))
    first = held(layers_of(live.versions[0]))
    live.store.history = 4 * (held(layers_of(*live.versions)) - first)
    counts = []
    for step in range(10):
        live.edit(painted(live.pixels, 2 * step, 24 - 2 * step, 4))
        counts.append(sum(bool(version.snapshots) for version in live.versions[1:]))
        needed = held(layers_of(live.versions[0], live.version))
        assert held(layers_of(*live.versions)) <= max(first + live.store.history, needed)
    assert 1 < max(counts) < 10


def test_a_failure_while_a_version_is_made_again_leaves_the_session(folds, monkeypatch):
    live = session()
    live.store.history = 0
    for step in range(3):
        live.edit(painted(live.pixels, 4 * step))
    live.undo()
    before = live.pixels

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Calls, "update", fail)
        with pytest.raises(KeyboardInterrupt):
            live.edit(painted(before))
    assert np.array_equal(live.pixels, before)
    live.edit(painted(before, 20, 20))
    assert len(live.versions) == 5


def test_other_bytes_are_said_and_the_picture_is_kept():
    live = session()
    live.edit(painted(live.pixels))
    before = live.pixels
    other = {**live.version.facts, "checksum": "0" * 32}
    live._history = live.history.replaced(replace(live.version.dropped(), facts=other))
    with pytest.warns(ReplayWarning, match="version 1 was made again, and not with the same bytes"):
        live.ready()
    assert np.array_equal(live.pixels, before)
    live.edit(painted(live.pixels, 20, 20))


def test_a_generators_versions_are_made_again(folds):
    live = upscaler().open(np.zeros((16, 16, 3), np.uint8))
    live.store.history = 0
    for step in range(3):
        live.edit(painted(live.source, 3 * step, 2, 3))
    assert [bool(version.snapshots) for version in live.versions] == [True, False, False, True]
    live.undo()
    live.edit(painted(live.source, 10, 10, 3))
    assert distance(live.pixels, live.reference(live.source).image) == 0


def distance(a, b):
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


# Light sessions


def saved_light(folder):
    """A light session with a branch in `folder`, and the pictures of its versions."""
    with session() as live:
        for step in range(3):
            live.edit(painted(live.pixels, 4 * step))
        live.save(folder, light=True)
        live.undo()
        live.edit(painted(live.pixels, 22, 3))  # is kept light, too
        return [version.pixels for version in live.versions], rows(live)


def reopened(folder, **options):
    return retouch.open(folder, editor=editor("ddpm", SPARSE), **options)


def test_a_light_session_takes_kilobytes_and_is_the_same_when_it_is_opened(tmp_path):
    folder = tmp_path / "light"
    pictures, held_rows = saved_light(folder)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 30_000
    assert not list(folder.rglob("*.safetensors"))
    told = []
    with reopened(folder, progress=lambda *what: told.append(what[2])) as live:
        assert [version.parent for version in live.versions] == [None, 0, 1, 2, 2]
        assert all(np.array_equal(a, v.pixels) for a, v in zip(pictures, live.versions, strict=True))
        assert same(rows(live), held_rows)
        assert {"making version 0 again", "recording step 1 of 3"} <= set(told)
        assert [bool(version.snapshots) for version in live.versions] == [True, True, True, False, True]
        live.go(3)
        live.edit(painted(live.pixels, 25, 25))
        pictures.append(live.pixels)
    with reopened(folder) as live:
        assert np.array_equal(live.pixels, pictures[-1])


def test_a_light_session_is_opened_in_the_background(tmp_path):
    pictures, _ = saved_light(tmp_path / "light")
    with reopened(tmp_path / "light", wait=False) as live:
        assert np.array_equal(live.pixels, pictures[-1])
        job = live.submit(painted(live.pixels, 25, 25), refine="off")
        assert live.opening.result(WAIT) is live
        assert job.result(WAIT).changed


def test_a_light_session_can_be_saved_whole(tmp_path):
    pictures, _ = saved_light(tmp_path / "light")
    with reopened(tmp_path / "light") as live:
        live.save(tmp_path / "whole")
        assert all(version.snapshots for version in live.versions)
    assert Manifest.read(tmp_path / "whole").light is False
    with reopened(tmp_path / "whole") as live:
        assert all(version.snapshots for version in live.versions)
        assert all(np.array_equal(a, v.pixels) for a, v in zip(pictures, live.versions, strict=True))


def test_pictures_of_a_light_session_are_read_without_its_model(tmp_path):
    pictures, _ = saved_light(tmp_path / "light")
    saved = Saved.read(tmp_path / "light")
    entries = saved.manifest.versions
    assert all(np.array_equal(a, saved.pixels(each)) for a, each in zip(pictures, entries, strict=True))
    assert (tmp_path / "light" / MANIFEST).read_text().startswith(f'{{\n "format": {LIGHT}')


def test_a_light_session_of_a_generator(tmp_path):
    made = upscaler()
    with made.open(np.zeros((16, 16, 3), np.uint8)) as live:
        live.edit(painted(live.source, 3, 2, 3))
        live.save(tmp_path / "light", light=True)
        before = live.pixels
    with retouch.open(tmp_path / "light", editor=made) as live:
        assert np.array_equal(live.pixels, before)
        live.edit(painted(live.source, 9, 9, 3))


def test_what_cannot_be_made_again_is_not_saved_light(tmp_path):
    live = session()
    live.edit(painted(live.pixels))
    live._history = live.history.replaced(replace(live.version, drawn=None))
    with pytest.raises(SessionError, match="what version 1 was asked is not known"):
        live.save(tmp_path / "light", light=True)
    assert not (tmp_path / "light").exists()


def test_another_machine_is_said_and_the_pictures_are_kept(tmp_path):
    pictures, _ = saved_light(tmp_path / "light")
    alter(tmp_path / "light", lambda found: found["versions"][0]["facts"].update(checksum="0" * 32))
    with pytest.warns(ReplayWarning, match="version 0"), reopened(tmp_path / "light") as live:
        assert np.array_equal(live.pixels, pictures[-1])


@pytest.mark.parametrize("name", ["strokes.png", "joins.png"])
def test_a_light_session_without_what_was_asked_is_refused(tmp_path, name):
    saved_light(tmp_path / "light")
    alter(tmp_path / "light", lambda found: found["versions"][1]["files"].pop(name))
    with pytest.raises(ArchiveError, match=f"{name} is missing"):
        reopened(tmp_path / "light")


def test_a_whole_session_is_of_the_format_that_older_versions_read(tmp_path):
    with session() as live, warnings.catch_warnings():
        live.edit(painted(live.pixels))
        live.save(tmp_path / "whole")
    assert (tmp_path / "whole" / MANIFEST).read_text().startswith(f'{{\n "format": {FORMAT}')
