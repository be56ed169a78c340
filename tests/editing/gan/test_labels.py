"""Sessions on maps of labels: equal to a dense run under `exact`, shapes, instances, saving, bad input."""

import numpy as np
import pytest
import torch
from PIL import Image

import retouch
from retouch import ArchiveError, ImageError, LabelEditor
from retouch.editing.images import as_integers
from retouch.models import spade
from retouch.models.checkpoints import WeightFileError
from support import fill

HEIGHT, WIDTH, COUNT = 64, 128, 5
MAKE = {"full": lambda: spade.spade(4, 6), "compressed": lambda: spade.compressed((3, 2, 2, 3, 2, 3, 2, 4), 6)}


def editor(kind="full", policy="exact", seed=0, **options):
    return LabelEditor(fill(MAKE[kind](), seed), policy=policy, **options)


def street(seed=0):
    """Labels in blocks of 16 pixels."""
    blocks = np.random.default_rng(seed).integers(0, COUNT, (HEIGHT // 16, WIDTH // 16))
    return blocks.repeat(16, 0).repeat(16, 1).astype(np.uint8)


def things():
    return np.arange(HEIGHT * WIDTH // 64).reshape(HEIGHT // 8, WIDTH // 8).repeat(8, 0).repeat(8, 1)


def distance(a, b):
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


@pytest.mark.parametrize("instances", [False, True])
@pytest.mark.parametrize("kind", MAKE)
def test_exact_edits_equal_a_dense_run(kind, instances):
    session = editor(kind).open(street(), instances=things() if instances else None)
    assert session.image.size == (WIDTH, HEIGHT)
    for top in (10, 40):
        drawn = session.labels
        drawn[top : top + 6, 30:40] = (drawn[top : top + 6, 30:40] + 1) % COUNT
        expected = session.reference(drawn)
        assert distance(session.edit(drawn).image, expected.image) <= 1


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("policy", ["balanced", "fast", "paper"])
def test_pixels_outside_the_active_rows_stay(policy, kind):
    session = editor(kind, policy).open(street())
    before = session.pixels
    result = session.brush([(20, 20), (30, 24)], 3, 4)
    active = session.net.active_mask(result.region)[0].numpy()
    assert not active.all()
    assert np.array_equal(session.pixels[~active], before[~active])


def test_shapes_change_labels_where_they_are_drawn():
    session = editor().open(np.zeros((HEIGHT, WIDTH), int))
    session.rectangle((9, 5), (3, 7), 2)
    assert (session.labels == 2).sum() == 7 * 3
    assert (session.labels[5:8, 3:10] == 2).all()
    session.polygon([(40, 10), (60, 10), (40, 30)], 3)
    assert session.labels[12, 42] == 3
    assert session.labels[28, 58] == 0
    session.brush([(100, 40)], 5, 1)
    assert session.labels[40, 100] == 1
    assert 9 <= (session.labels == 1).sum() <= 25
    session.brush([(70, 50), (90, 50)], 3, 4)
    assert (session.labels[50, 70:91] == 4).all()
    session.paste(np.full((4, 6), 4, np.uint8), (WIDTH - 3, -2))
    assert (session.labels[:2, -3:] == 4).all()
    for _ in range(5):
        session.undo()
    assert not session.labels.any()


def test_a_drawn_shape_is_an_instance_of_its_own():
    session = editor().open(street(), instances=things())
    session.rectangle((10, 10), (20, 20), 1)
    drawn = session.instances[10:21, 10:21]
    assert (drawn == drawn[0, 0]).all()
    assert drawn[0, 0] == things().max() + 1
    assert editor().open(street()).instances is None


def test_edges_follow_the_instances():
    """The same labels with two instances joined are another picture."""
    session = editor().open(street(), instances=things())
    result = session.edit(instances=np.full((HEIGHT, WIDTH), 16), mask=things() == 17)
    assert result.changed
    assert np.array_equal(session.labels, street())
    assert result.region.fraction < 0.02


@pytest.mark.parametrize("instances", [False, True])
def test_a_region_is_where_the_network_reads_something_else(instances):
    session = editor("compressed").open(street(), instances=things() if instances else None)
    before = torch.from_numpy(session.source)
    drawn, ids = before.clone(), before.clone()
    drawn[:, 20:26, 30:40] = (drawn[:, 20:26, 30:40] + 1) % COUNT
    ids[-1] += 1  # all of them, so that edges stay
    for after in (before, drawn, *([ids] if instances else [])):
        found = session.differs(before, after)
        assert torch.equal(found, (session.read(before) != session.read(after)).any(1)[0])
        assert bool(found.any()) == (after is drawn)


def test_nothing_changed_adds_no_version():
    session = editor().open(street())
    assert not session.edit(session.labels).changed
    assert len(session.versions) == 1


@pytest.mark.parametrize("instances", [False, True])
def test_a_saved_session_goes_on(instances, tmp_path):
    torch.save(fill(MAKE["full"](), 0).state_dict(), tmp_path / "net_G.pth")
    made = LabelEditor.from_pretrained(tmp_path / "net_G.pth", policy="exact")
    session = made.open(street(), instances=things() if instances else None, folder=tmp_path / "s")
    session.rectangle((10, 10), (20, 20), 1)
    session.close()
    picture = as_integers(tmp_path / "s" / "versions" / session.version.folder / "source.png")
    assert np.array_equal(picture, session.labels)
    with retouch.open(tmp_path / "s") as again:
        assert np.array_equal(again.source, session.source)
        expected = session.polygon([(40, 10), (60, 10), (40, 30)], 3)
        assert np.array_equal(again.polygon([(40, 10), (60, 10), (40, 30)], 3).image, expected.image)
    with pytest.raises(ArchiveError, match="other weights"):
        retouch.open(tmp_path / "s", editor=editor(seed=1))


def test_a_picture_file_of_labels(tmp_path):
    palette = Image.fromarray(street(), "P")
    palette.putpalette([7, 8, 9] * 256)
    palette.save(tmp_path / "labels.png")
    assert np.array_equal(editor().open(tmp_path / "labels.png").labels, street())


def wrong(value, at=(3, 5)):
    ids = street().astype(int)
    ids[at] = value
    return ids


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (wrong(5), r"no label 5 \(at x 5, y 3; 1 pixels in all\): the network knows 0 to 4"),
        (wrong(-1), "no label -1"),
        (street()[:63], "multiples of 64"),
        (np.zeros((64, 128, 3)), "colours are no ids"),
    ],
)
def test_maps_that_do_not_fit(labels, reason):
    with pytest.raises(ImageError, match=reason):
        editor().open(labels)


def test_bad_edits():
    session = editor().open(street())
    for edit, reason in [
        (lambda: session.edit(street()[:32]), "128x32, but the picture is 128x64"),
        (lambda: session.edit(wrong(77)), "no label 77"),
        (lambda: session.edit(instances=things()), "without a map of instances"),
        (lambda: session.rectangle((1, 1), (2, 2), 5), "no label 5"),
        (lambda: session.polygon([(1, 1), (2, 2)], 1), "three corners"),
        (lambda: session.brush([], 3, 1), "paints nothing"),
        (lambda: session.rectangle((500, 500), (510, 510), 1), "empty"),
        (lambda: session.paste(np.zeros((2, 2), int), (WIDTH, 0)), "outside the map"),
        (lambda: session.paste(np.full((2, 2), 9), (0, 0)), "no label 9"),
        (lambda: session.edit(mask=np.zeros((HEIGHT, WIDTH), bool)), "empty"),
    ]:
        with pytest.raises(ImageError, match=reason):
            edit()
    assert len(session.versions) == 1


def test_instances_that_do_not_fit(tmp_path):
    made = editor()
    session = made.open(street(), instances=things())
    for edit, reason in [
        (lambda: made.open(street(), instances=things()[:8]), "128x8, but the picture is 128x64"),
        (lambda: made.open(street(), instances=tmp_path / "none.png"), "there is no file .*none.png"),
        (lambda: made.open(street(), instances=things() / 2), "not one channel of integers"),
        (lambda: session.edit(instances=things()[:, :8]), "8x64, but the picture is 128x64"),
        (lambda: session.edit(instances=tmp_path / "none.npy"), "there is no file .*none.npy"),
        (lambda: session.reference(instances=things()[:8]), "128x8, but the picture is 128x64"),
    ]:
        with pytest.raises(ImageError, match=reason):
            edit()
    assert len(session.versions) == 1


class Code:
    def __reduce__(self):
        return print, ("this ran",)


def test_checkpoints_that_do_not_fit(tmp_path, capsys):
    state = fill(MAKE["full"](), 0).state_dict()
    lost = {name: tensor for name, tensor in state.items() if name != "fc.bias"}
    damaged = [
        (lost, r"missing: fc\.bias"),
        ({**state, "more": torch.zeros(1)}, "not part of the network: more"),
        ({**state, "fc.bias": torch.zeros(2)}, r"fc\.bias is \[2\] and should be \[64\]"),
        ({**state, "code": Code()}, "would run code"),
    ]
    for content, reason in damaged:
        torch.save(content, tmp_path / "net_G.pth")
        with pytest.raises(WeightFileError, match=reason):
            LabelEditor.from_pretrained(tmp_path / "net_G.pth")
    assert "this ran" not in capsys.readouterr().out
