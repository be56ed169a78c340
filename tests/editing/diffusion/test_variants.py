"""Variants: one edit with several seeds, computed together; one of them becomes the version."""

import threading
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest

import retouch
from editing.diffusion.test_session import contents, distance, editor, equal, opened
from pipelines import painted, picture
from retouch import VariantsError
from retouch.editing.manifest import Manifest
from retouch.incremental import Incremental
from retouch.plan.policy import Policy

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SPARSE = Policy("sparse", stats="probed", probe_distance=1, dilate=2, crossover=1.0)
"""Like `balanced`, for tiny networks, of which everything would be computed."""


@pytest.fixture
def session():
    return opened("sd", SPARSE)


def counted(name):
    """A method of compiled networks, with a record of its calls."""
    return patch.object(Incremental, name, autospec=True, side_effect=getattr(Incremental, name))


# What they are


@pytest.mark.parametrize("policy", [SPARSE, "exact"], ids=["sparse", "exact"])
@pytest.mark.parametrize("name", ["ddpm", "sd", "inpaint", "sdxl", "kontext"])
def test_the_first_is_what_edit_makes_and_the_others_differ_inside(name, policy):
    session = opened(name, policy)
    drawn = painted(session.pixels)
    found = session.variants(3, drawn)
    assert (session.position, found.seeds, len(found)) == (0, [0, 1, 2], 3)
    edited = session.edit(drawn)
    assert np.array_equal(found[0].image, edited.image)
    outside = ~edited.region.dilated(session.border).mask[0]
    for image in found.images[1:]:
        assert distance(image, edited.image) > 0
        assert np.array_equal(np.asarray(image)[outside], picture(name)[outside])


@pytest.mark.parametrize("scheduler", ["euler-a", "ddim"])
def test_a_seed_gives_the_same_whatever_is_computed_with_it(scheduler):
    session = opened("ddpm", SPARSE, editor_options={"scheduler": scheduler})
    drawn = painted(session.pixels)
    found = session.variants(2, drawn, seeds=(0, 7))
    alone = session.variants(1, drawn, seeds=[7])
    assert np.array_equal(found[1].image, alone[0].image)


def test_every_network_is_run_once_for_all(session):
    with counted("update_many") as together, counted("_update") as alone:
        session.variants(4, painted(session.pixels))
    steps = len(session.sampler) - session.first
    assert [len(call.args[1]) for call in together.call_args_list] == [4] * (steps + 1)  # and the decoder
    assert alone.call_count == 1  # the encoder, which sees one picture
    assert all(net._memory is None for net in session.networks().values())


@pytest.mark.parametrize("options", [{"inpaint": True}, {"prompt": "b"}, {"strength": 0.4}], ids=str)
def test_they_take_what_edits_take(session, options):
    mask = np.zeros(session.size, bool)
    mask[10:20, 12:22] = True
    found = session.variants(2, mask=mask, **options)
    make = session.inpaint if options.pop("inpaint", False) else partial(session.edit, session.pixels)
    made = make(mask=mask, **options)
    assert np.array_equal(found[0].image, made.image)
    assert found[0].facts["edit"] == session.version.facts["edit"]
    assert found[0].edited.error is not None


def test_a_grey_mask_joins_step_by_step(session):
    mask = np.zeros(session.size)
    mask[10:30, 12:32] = np.linspace(0.3, 1, 20)
    found = session.variants(2, mask=mask)
    assert np.array_equal(found[0].image, session.edit(mask=mask).image)
    assert distance(*found.images) > 0


# Choosing


def test_a_choice_is_a_version_like_that_of_an_edit(session):
    other = opened("sd", SPARSE)
    found = session.variants(2, painted(session.pixels), prompt="b")
    result = session.choose(found, 0)
    other.edit(painted(other.pixels), prompt="b")
    assert equal(contents(session), contents(other))
    assert np.array_equal(result.image, other.image)
    assert (session.version.facts["seed"], session.version.facts["prompt"]) == (0, "b")
    edits = [s.edit(painted(s.pixels, 30, 30)) for s in (session, other)]
    assert np.array_equal(edits[0].image, edits[1].image)


def test_choices_are_branches_side_by_side(session):
    found = session.variants(3, painted(session.pixels))
    for count, number in enumerate((2, 1)):
        found.choose(number)
        assert np.array_equal(session.pixels, found[number].found.pixels)
        assert (session.version.number, session.version.parent) == (count + 1, 0)
        assert session.version.facts["seed"] == number
    session.undo()
    assert np.array_equal(session.pixels, picture("sd"))
    found.choose(0)
    assert [(v.parent, v.facts.get("seed")) for v in session.versions] == [(None, None), (0, 2), (0, 1), (0, 0)]
    assert np.array_equal(np.asarray(session.go(1)), found[2].found.pixels)


def test_a_choice_after_other_edits_is_refused(session):
    found = session.variants(2, painted(session.pixels))
    found.choose(1)
    session.edit(painted(session.pixels, 30, 30))
    before = session.pixels
    with pytest.raises(VariantsError, match="no longer shows"):
        found.choose(0)
    assert np.array_equal(session.pixels, before)
    session.undo()
    found.choose(0)
    with pytest.raises(VariantsError, match="there is no variant 2; they are 0 to 1"):
        found.choose(2)


def test_a_choice_is_kept_in_the_sessions_folder(session, tmp_path):
    found = session.variants(2, painted(session.pixels))
    session.save(tmp_path / "house")
    found.choose(1)
    shown, held = session.pixels, contents(session)
    session.close()
    loaded = retouch.open(tmp_path / "house", editor=editor("sd", SPARSE))
    assert np.array_equal(loaded.pixels, shown)
    assert equal(contents(loaded), held)
    assert loaded.version.facts["seed"] == 1
    loaded.close()


def test_choices_are_sealed_together_or_not_at_all(session, tmp_path):
    found = session.variants(3, painted(session.pixels))
    session.save(tmp_path / "house")
    with pytest.raises(VariantsError, match="there is no variant 3"), session.sealed_together():
        found.choose(2), found.choose(3)
    assert [version.facts.get("seed") for version in session.versions] == [None]
    with session.sealed_together():
        found.choose(1)
        assert len(Manifest.read(tmp_path / "house").versions) == 1
        found.choose(0)
    session.close()
    loaded = retouch.open(tmp_path / "house", editor=editor("sd", SPARSE))
    assert [version.facts.get("seed") for version in loaded.versions] == [None, 1, 0]
    loaded.close()


# What cannot be


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "0 variants are none"),
        ({"count": -1}, "-1 variants are none"),
        ({"count": 2, "seeds": [3]}, "2 variants need 2 different seeds"),
        ({"count": 2, "seeds": [3, 3]}, "2 variants need 2 different seeds"),
        ({"count": 1, "seeds": [-3]}, "not negative"),
    ],
)
def test_numbers_that_make_no_sense(session, arguments, message):
    with counted("update_many") as together, pytest.raises(VariantsError, match=message):
        session.variants(image=painted(session.pixels), **arguments)
    assert not together.called


def test_an_edit_that_changes_nothing(session):
    with pytest.raises(VariantsError, match="nothing is edited"):
        session.variants(2, session.pixels)


def test_more_than_memory_holds_is_said_before_it_starts(session):
    drawn = painted(session.pixels)
    region = retouch.Region.from_mask((drawn != session.pixels).any(-1))
    need = max(net.demand(region).once for net in session.networks().values())
    with (
        counted("update_many") as together,
        patch("retouch.editing.diffusion.variants.free_memory", return_value=need + 1_000_000),
        pytest.raises(VariantsError, match=r"10000 variants need about .* GB .* free: [1-9]\d* of them fit"),
    ):
        session.variants(10_000, drawn)
    assert not together.called


def test_a_failure_leaves_the_session_and_no_thread(session):
    def stop(done, total, what):
        if done == 2:
            raise KeyboardInterrupt

    before, threads = session.version, threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        session.variants(3, painted(session.pixels), progress=stop)
    assert session.version is before
    assert threading.active_count() == threads
    assert all(net._memory is None for net in session.networks().values())
