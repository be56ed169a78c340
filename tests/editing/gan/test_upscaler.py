"""Sessions of super-resolution networks: equal to a dense run under `exact`, undo, saving, bad input."""

from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
import torch
from PIL import Image

import retouch
from pipelines import painted, picture
from retouch import ArchiveError, Editor, ImageError, UndoError, Upscaler
from retouch.editing.gan.upscaler import PACKAGE, PRETRAINED
from retouch.editing.images import as_pixels
from retouch.models.super_resolution import SRVGG, RRDBNet
from support import fill

NETWORKS = {"srvgg": lambda: SRVGG(3, 8), "rrdbnet": lambda: RRDBNet(1, 8, 4)}


def upscaler(name="srvgg", policy="exact", seed=0, **options):
    return Upscaler(fill(NETWORKS[name](), seed), policy=policy, **options)


def distance(a, b):
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_edits_equal_a_dense_run(name):
    session = upscaler(name).open(picture("ddpm"))
    assert session.image.size == (128, 128)
    drawn = np.array(session.source)
    for top in (3, 20):
        drawn = painted(drawn, top)
        expected = session.reference(drawn)
        result = session.edit(drawn)
        assert result.changed
        assert distance(result.image, expected.image) <= 1
        assert np.array_equal(session.source, drawn)


def test_a_region_is_where_the_network_reads_something_else():
    session = upscaler().open(picture("ddpm"))
    before, after = (torch.from_numpy(pixels) for pixels in (session.source, painted(session.source)))
    found = session.differs(before, after)
    assert found.any()
    assert torch.equal(found, (session.read(before) != session.read(after)).any(1)[0])


@pytest.mark.parametrize("policy", ["balanced", "fast", "paper"])
def test_pixels_outside_the_active_rows_stay(policy):
    session = upscaler("rrdbnet", policy).open(picture("sd"))
    before = session.pixels
    result = session.edit(painted(session.source))
    active = session.net.active_mask(result.region)[0].numpy()
    assert np.array_equal(session.pixels[~active], before[~active])
    assert not np.array_equal(session.pixels[active], before[active])


def test_a_mask_limits_the_edit():
    session = upscaler().open(picture("ddpm"))
    mask = np.zeros((32, 32), bool)
    mask[9:11, 14:16] = True
    result = session.edit(painted(session.source), mask=mask)
    assert np.array_equal(result.region.mask[0], mask)
    assert (np.array(session.source) != picture("ddpm")).any(-1).sum() == 4


def test_a_grey_mask_is_cut_at_half():
    session, other = upscaler().open(picture("ddpm")), upscaler().open(picture("ddpm"))
    mask = np.full((32, 32), 0.5)
    mask[9:11, 14:16] = 0.51
    found = session.edit(painted(session.source), mask=mask)
    assert np.array_equal(found.region.mask[0], mask > 0.5)
    assert np.array_equal(found.image, other.edit(painted(other.source), mask=mask > 0.5).image)


def test_faint_differences_count_where_the_policy_is_exact_or_the_threshold_says_so():
    for policy, options, changed in (("exact", {}, True), ("fast", {}, False), ("fast", {"threshold": 1}, True)):
        session = upscaler(policy=policy).open(picture("ddpm"))
        drawn = session.source
        drawn[3:6, 3:6] = np.where(drawn[3:6, 3:6] > 128, drawn[3:6, 3:6] - 2, drawn[3:6, 3:6] + 2)
        assert session.reference(drawn).changed
        assert session.edit(drawn, **options).changed == changed


def test_nothing_changed_adds_no_version():
    session = upscaler().open(picture("ddpm"))
    result = session.edit(session.source)
    assert not result.changed
    assert len(session.versions) == 1
    assert np.array_equal(result.image, session.image)


def test_undo_and_redo():
    session = upscaler().open(picture("ddpm"))
    seen = [session.pixels]
    for top in (2, 12, 22):
        session.edit(painted(session.source, top))
        seen.append(session.pixels)
    for expected in seen[-2::-1]:
        assert np.array_equal(session.undo(), expected)
    with pytest.raises(UndoError):
        session.undo()
    for expected in seen[1:]:
        assert np.array_equal(session.redo(), expected)


def test_a_saved_session_goes_on(tmp_path):
    editor = upscaler()
    session = editor.open(picture("ddpm"), folder=tmp_path / "s")
    drawn = painted(session.source)
    session.edit(drawn)
    session.close()
    for name, pixels in (("image.png", session.pixels), ("source.png", drawn)):
        found = as_pixels(tmp_path / "s" / "versions" / session.version.folder / name)
        assert np.array_equal(found, pixels)
    with retouch.open(tmp_path / "s", editor=editor) as again:
        assert np.array_equal(again.source, drawn)
        twice = painted(drawn, 22, 3)
        assert np.array_equal(again.edit(twice).image, session.edit(twice).image)
    with pytest.raises(ArchiveError, match="other weights"):
        retouch.open(tmp_path / "s", editor=upscaler(seed=1))
    with pytest.raises(ArchiveError, match="another network"):
        retouch.open(tmp_path / "s", editor=upscaler("rrdbnet"))


def test_an_interrupted_recording_leaves_no_folder(tmp_path):
    def progress(done, total, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscaler().open(picture("ddpm"), folder=tmp_path / "s", progress=progress)
    assert not (tmp_path / "s").exists()


def test_bad_input():
    session = upscaler().open(picture("ddpm"))
    with pytest.raises(ImageError, match="different sizes"):
        session.edit(session.source[:16])
    with pytest.raises(ImageError, match="the mask"):
        session.edit(painted(session.source), mask=np.ones((5, 5), bool))
    with pytest.raises(ImageError, match="more than 100 megapixels"):
        upscaler().open(np.zeros((4096, 2048, 3), np.uint8))
    with pytest.raises(ValueError, match="unknown upscaler"):
        Upscaler.from_pretrained("builtin/other")
    assert len(session.versions) == 1


def test_missing_weights_name_the_extra(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("retouch.editing.gan.upscaler.distribution", missing)
    with pytest.raises(ImportError, match=r"retouch\[upscale\]"):
        Editor.from_pretrained("builtin/realesrgan-x4")


def _installed():
    try:
        return bool(distribution(PACKAGE))
    except PackageNotFoundError:
        return False


@pytest.mark.skipif(not _installed(), reason=f"{PACKAGE} is not installed")
@pytest.mark.parametrize("name", PRETRAINED)
def test_trained_weights_enlarge_a_photograph(name):
    """Shrunk again, the large picture is the small one: what random or misplaced weights never give."""
    from skimage import data

    small = np.ascontiguousarray(data.astronaut()[80:144, 190:254])
    editor = Editor.from_pretrained(name)
    assert isinstance(editor, Upscaler)
    with torch.no_grad():
        session = editor.open(small)
    shrunk = np.array(session.image.resize((64, 64), Image.Resampling.BOX))
    assert np.abs(shrunk.astype(float) - small).mean() < 6
