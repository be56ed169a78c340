"""Sessions of every kind of pipeline: equal to dense under `exact`, no drift, undo, saving, interruptions."""

import json
from functools import cache

import numpy as np
import pytest
import torch

import retouch
from manifests import alter
from pipelines import LATENT_PIXELS, PIXEL_SCHEDULERS, painted, picture, pipeline
from retouch import ArchiveError, Editor, ImageError, OptionError, PipelineError, SchedulerError, UndoError
from retouch.editing.blend import BLENDS, DEFAULT
from retouch.editing.diffusion.schedulers import SCHEDULERS
from retouch.incremental import Incremental
from retouch.plan.region import dilate

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

PIPELINES = (
    "ddpm", "v", "sd", "inpaint", "sdxl", "flux", "flux-dev", "fill", "kontext", "qwen", "qwen-plus", "sd3", "klein",
    "klein-inpaint", "z-image", "chroma", "pixart", "sana", "sprint",
)  # fmt: skip


@cache
def editor(name, policy="balanced", **options):
    made = Editor(pipeline(name), policy=policy, name=name, **options)
    if options.keys() == {"scheduler"}:  # one model under all of them: compiling takes longest
        made.model = editor(name, policy).model
    return made


def opened(name, policy="balanced", steps=4, strength=0.7, editor_options=None, **options):
    words = {} if name in PIXEL_SCHEDULERS else {"prompt": "a b"}
    made = editor(name, policy, **(editor_options or {}))
    return made.open(picture(name), steps=steps, strength=strength, **{**words, **options})


def fitting(name, scheduler):
    """That pipeline, or one that a scheduler of another kind of model fits."""
    return {"flow-euler": "flow", "scm": "angle"}.get(scheduler, name)


def distance(a, b):
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


def strokes(session, count, seed=0):
    """Random squares, each drawn on what the session shows."""
    random = np.random.default_rng(seed)
    height, width = session.size
    for _ in range(count):
        top, left = random.integers(0, height - 6), random.integers(0, width - 6)
        yield painted(session.pixels, top, left, 5, tuple(random.integers(0, 256, 3)))


def contents(session):
    """A copy of everything that the current version stands for."""
    held = []
    for name in sorted(session.version.snapshots):
        snapshot = session.version.snapshots[name]
        held += [snapshot.rows(v) for v in snapshot.layers[0].tables]
        states = sorted((slot.kind, slot.key.name, t) for slot, t in snapshot.states.items())
        dense = sorted((v.name, t) for v, t in snapshot.dense.items() if isinstance(t, torch.Tensor))
        held += [parts[-1].clone() for parts in (*states, *dense)]
    return held


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# The dense model is the yardstick.


@pytest.mark.parametrize("name", ["ddpm", "sd"])
def test_a_margin_is_computed_and_changes_nothing(name):
    """The denoiser computes so many positions more, and what may change stays the same; one that reaches everywhere
    makes the steps those of the dense model, and so the picture where no autoencoder has an error of its own.
    """
    near, far = {}, {}
    for margin in (0, 1, 64):
        policy = retouch.Policy("margin", dilate=2, dilate_grid=0, margin=margin, stats="recorded", crossover=1.0)
        session = opened(name, policy)
        edited = painted(session.pixels, 3, 3, 5, (250, 20, 30))
        inside = session.latent_mask(retouch.Region.from_mask((edited != session.pixels).any(-1)))
        before, dense = session.version.tensors["latents"], session.reference(edited)
        found = session.edit(edited)
        assert torch.equal((session.version.tensors["latents"] != before)[1:].any(0).any(0), inside[0, 0])
        near[margin], far[margin] = session.version.facts["macs"], distance(found.image, dense.image)
    assert near[0] < near[1] < near[64]
    if session.nets.decoder is None:
        assert far[64] <= 1 < far[0]


@pytest.mark.parametrize("name", PIPELINES)
def test_exact_edits_equal_the_dense_reference(name):
    session = opened(name, "exact")
    for drawn in strokes(session, 2):
        expected = session.reference(drawn)
        assert distance(session.edit(drawn).image, expected.image) <= 1
    mask = np.zeros(session.size, bool)
    mask[3:9, 4:12] = True
    expected = session.reference(mask=mask, inpaint=True)
    assert distance(session.inpaint(mask).image, expected.image) <= 1
    if session.model.reads_text:
        expected = session.reference(mask=mask, prompt="b c d")
        assert distance(session.edit(mask=mask, prompt="b c d").image, expected.image) <= 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_exact_edits_equal_the_dense_reference_under_every_scheduler(scheduler):
    session = opened(fitting("ddpm", scheduler), "exact", steps=5, editor_options={"scheduler": scheduler})
    drawn = painted(session.pixels)
    expected = session.reference(drawn)
    assert distance(session.edit(drawn).image, expected.image) <= 1


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_guidance_on_and_off(guidance):
    session = opened("sd", "exact", guidance=guidance)
    drawn = painted(session.pixels)
    expected = session.reference(drawn)
    assert distance(session.edit(drawn).image, expected.image) <= 1


@pytest.mark.parametrize("name", ["v", "sd"])
def test_a_generated_session_shows_what_the_pipeline_generates(name):
    made = editor(name)
    words = {} if name == "v" else {"prompt": "a b", "guidance": 3.0}
    size = (LATENT_PIXELS, LATENT_PIXELS) if name == "sd" else None
    session = made.generate(steps=4, seed=3, size=size, **words)
    x = session.sampler.initial(session.sampler.noise(made.model.latent_shape(session.size)))
    scheduler = made.scheduler
    scheduler.set_timesteps(4)
    with torch.no_grad():
        for time in scheduler.timesteps:
            inputs = made.model.inputs(x, time[None], session.conditioning)
            x = scheduler.step(
                made.model.output(made.model.denoiser(**inputs), session.conditioning), time, x
            ).prev_sample
        image = x if name == "v" else pipeline(name).vae.decode(made.model.decoder_input(x)).sample
    assert distance(session.pixels, ((image / 2 + 0.5).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy()) <= 1


# Blends


def test_blends_differ_in_the_border_and_count_for_the_dense_reference_too(tmp_path):
    session = opened("sd", folder=tmp_path / "s", editor_options={"blend": "multiband"})
    drawn, before, found = painted(session.pixels), session.pixels, {}
    for name in (None, *BLENDS):
        found[name] = np.array(session.edit(drawn, blend=name).image)
        session.undo()
    assert np.array_equal(found[None], found["multiband"])
    outside = ~dilate((drawn != before).any(2)[None], session.border)[0]
    for name in BLENDS:
        assert np.array_equal(found[name][outside], before[outside])
        assert sum(np.array_equal(found[name], found[other]) for other in BLENDS) == 1
    dense = {name: np.array(session.reference(drawn, blend=name).image) for name in BLENDS}
    assert not np.array_equal(dense["fade"], dense["harmonise"])
    with pytest.raises(OptionError, match="unknown blend 'paste'"):
        session.inpaint((drawn != before).any(2), blend="paste")
    assert session.position == 0


def test_sessions_keep_their_blend_and_old_ones_fade(tmp_path):
    folder = tmp_path / "s"
    opened("ddpm", folder=folder).close()
    with editor("ddpm").restore(folder) as session:
        assert session.blend == DEFAULT
        drawn = painted(session.pixels)
        faded = np.array(session.edit(drawn, blend="fade").image)
        session.undo()
    alter(folder, lambda body: body["settings"].pop("blend"))
    with editor("ddpm").restore(folder) as session:
        assert session.blend == "fade"
        assert np.array_equal(session.edit(drawn).image, faded)
    with editor("ddpm", blend="multiband").restore(folder) as session:
        assert session.blend == "multiband"
        session.undo()
    alter(folder, lambda body: body["settings"].update(blend="paste"))
    with pytest.raises(ArchiveError, match="blend"):
        editor("ddpm").restore(folder)
    with pytest.raises(OptionError, match="unknown blend 'paste'"):
        editor("ddpm", blend="paste")


# No drift.


@pytest.mark.parametrize("policy", ["balanced", "fast"])
@pytest.mark.parametrize("name", PIPELINES)
def test_pixels_outside_the_region_stay_edit_after_edit(name, policy):
    session = opened(name, policy)
    for drawn in strokes(session, 4):
        before = session.pixels
        result = session.edit(drawn)
        outside = ~dilate(result.region.mask, session.policy.dilate)[0]
        assert outside.any()
        assert np.array_equal(session.pixels[outside], before[outside])
        assert not np.array_equal(session.pixels, before)


def test_nothing_and_everything():
    session = opened("ddpm")
    unchanged = session.edit(session.pixels)
    assert not unchanged.changed
    assert len(session.versions) == 1
    everything = 255 - session.pixels
    expected = session.reference(everything)
    assert distance(session.edit(everything).image, expected.image) <= 1


def faint(session, levels=2):
    """What the session shows with a square that differs by so many grey levels."""
    drawn = session.pixels
    drawn[4:9, 4:9] = np.where(drawn[4:9, 4:9] > 128, drawn[4:9, 4:9] - levels, drawn[4:9, 4:9] + levels)
    return drawn


@pytest.mark.parametrize("levels", [1, 2])
def test_faint_differences_count_where_the_policy_is_exact_or_the_threshold_says_so(levels):
    exact, balanced = opened("ddpm", "exact"), opened("ddpm")
    drawn = faint(exact, levels)
    expected = exact.reference(drawn)
    found = exact.edit(drawn)
    assert found.region.fraction == expected.region.fraction == 25 / 1024
    assert distance(found.image, expected.image) <= 1
    assert not balanced.edit(drawn).changed
    assert len(balanced.versions) == 1
    assert balanced.reference(drawn).region.fraction == 25 / 1024
    assert not balanced.edit(drawn, threshold=levels).changed
    assert balanced.edit(drawn, threshold=levels - 1).region.fraction == 25 / 1024
    with pytest.raises(OptionError, match="cannot be -1"):
        balanced.edit(drawn, threshold=-1)


def test_the_seed_decides():
    first, second, other = (opened("ddpm", seed=s, editor_options={"scheduler": "ddpm"}) for s in (1, 1, 2))
    drawn = painted(first.pixels)
    images = [np.asarray(s.edit(drawn).image) for s in (first, second, other)]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


# Words.


def test_new_words_change_the_region_and_are_taken_back_by_undo():
    session = opened("sd")
    mask = np.zeros(session.size, bool)
    mask[20:30, 20:34] = True
    same = np.asarray(session.edit(mask=mask).image)
    session.undo()
    before = session.pixels
    other = np.asarray(session.edit(mask=mask, prompt="h g f").image)
    assert session.conditioning.prompt == "h g f"
    assert not np.array_equal(same, other)
    outside = ~dilate(mask[None], session.policy.dilate)[0]
    assert np.array_equal(other[outside], before[outside])
    session.undo()
    assert session.conditioning.prompt == "a b"


def test_words_alone_find_their_own_region():
    session = opened("sd")
    result = session.edit(prompt="h g f e")
    assert 0 < result.region.fraction < 1


@pytest.mark.parametrize("name", ["ddpm", "v"])
def test_a_model_without_words_refuses_them(name):
    with pytest.raises(PipelineError, match="takes no prompt"):
        opened(name, prompt="a")
    with pytest.raises(PipelineError, match="takes no prompt"):
        opened(name).edit(prompt="a")


# Versions.


def test_twenty_edits_twenty_undos_twenty_redos():
    session = opened("ddpm", steps=2, strength=1.0)
    first, images = contents(session), [session.pixels]
    for drawn in strokes(session, 20):
        session.edit(drawn)
        images.append(session.pixels)
    for expected in images[-2::-1]:
        assert np.array_equal(np.asarray(session.undo()), expected)
    assert equal(contents(session), first)
    with pytest.raises(UndoError, match="this is the original"):
        session.undo()
    for expected in images[1:]:
        assert np.array_equal(np.asarray(session.redo()), expected)
    with pytest.raises(UndoError, match="nothing to redo"):
        session.redo()


def test_branches_do_not_disturb_each_other():
    session = opened("sd", steps=2, strength=1.0)
    session.edit(painted(session.pixels))
    start, held = session.pixels, contents(session)
    branch = session.branch()
    branch.edit(painted(start, 30, 30))
    session.edit(painted(start, 40, 8))
    assert not np.array_equal(branch.pixels, session.pixels)
    assert np.array_equal(np.asarray(branch.undo()), start)
    assert np.array_equal(np.asarray(session.undo()), start)
    assert equal(contents(session), held)
    session.edit(painted(start, 2, 2))
    with pytest.raises(UndoError):
        session.redo()


@pytest.mark.parametrize("inside", [True, False], ids=["in a folder", "saved later"])
@pytest.mark.parametrize("name", ["ddpm", "inpaint"])
def test_a_saved_session_goes_on_as_if_it_never_stopped(name, inside, tmp_path):
    folder = tmp_path / "session"
    session = opened(name, folder=folder if inside else None)
    plain = opened(name)
    drawings = [painted(session.pixels), painted(session.pixels, 20, 3)]
    for drawn in drawings:
        session.edit(drawn)
        plain.edit(drawn)
    session.undo(), plain.undo()
    if not inside:
        session.save(folder)
    with pytest.raises(ArchiveError, match="in use"):
        retouch.open(folder, editor=editor(name))
    json.dumps(session.info())
    session.close()
    with retouch.open(folder, editor=editor(name)) as again:
        assert np.array_equal(again.pixels, plain.pixels)
        assert np.array_equal(np.asarray(again.redo()), np.asarray(plain.redo()))
        another = painted(plain.pixels, 4, 22)
        assert np.array_equal(np.asarray(again.edit(another).image), np.asarray(plain.edit(another).image))
        assert equal(contents(again), contents(plain))
        branch = again.branch()
        branch.undo()
        branch.save(tmp_path / "branch")
        branch.close()
    with retouch.open(tmp_path / "branch", editor=editor(name)) as branch:
        assert len(branch.versions) == 4


@pytest.mark.parametrize("storage", ["fp16", "bf16"])
def test_narrow_storage_in_files_stays_close(storage, tmp_path):
    plain = opened("v", "balanced")
    narrow = opened("v", "balanced", editor_options={"storage": storage, "memory": 0, "folder": tmp_path})
    drawn = painted(plain.pixels)
    assert distance(plain.edit(drawn).image, narrow.edit(drawn).image) <= 12
    facts = narrow.info()["bytes"]
    assert facts["memory"] == 0
    assert facts["temporary_files"] < 0.6 * plain.info()["bytes"]["memory"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", [True, False], ids=["in a folder", "in memory"])
def test_an_interrupted_edit_leaves_the_session_as_it_was(inside, tmp_path):
    session = opened("sd", folder=tmp_path / "s" if inside else None)
    expected = opened("sd").edit(painted(session.pixels)).image
    held, drawn = contents(session), painted(session.pixels)
    for stop in range(4):

        def progress(done, total, what, stop=stop):
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            session.edit(drawn, progress=progress)
        assert len(session.versions) == 1
        assert equal(contents(session), held)
        if inside:
            assert [f.name for f in (tmp_path / "s" / "versions").iterdir()] == ["0000"]
    assert distance(session.edit(drawn).image, expected) == 0


def test_an_interrupted_recording_leaves_no_folder(tmp_path):
    def progress(done, total, what):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened("ddpm", folder=tmp_path / "s", progress=progress)
    assert not (tmp_path / "s").exists()


# Bad input.


def test_bad_input():
    with pytest.raises(PipelineError, match="multiples of 2"):
        editor("ddpm").open(picture("ddpm")[:31])
    with pytest.raises(SchedulerError, match="strength"):
        opened("ddpm", strength=0)
    with pytest.raises(SchedulerError, match="at least 1"):
        opened("ddpm", steps=0)
    with pytest.raises(SchedulerError, match="unknown scheduler"):
        editor("ddpm", scheduler="lms")
    session = opened("ddpm", strength=0.5)
    with pytest.raises(PipelineError, match="were not recorded"):
        session.edit(painted(session.pixels), strength=1.0)
    with pytest.raises(ImageError, match="different sizes"):
        session.edit(session.pixels[:16])
    with pytest.raises(ImageError, match="empty"):
        session.inpaint(np.zeros(session.size, bool))
    with pytest.raises(ImageError, match="the mask"):
        session.inpaint(np.ones((5, 5), bool))
    assert len(session.versions) == 1


def test_unsupported_pipelines(tmp_path):
    class Pipe:
        unet = None

    with pytest.raises(PipelineError, match="needs a pipeline with a U-Net"):
        Editor(Pipe())
    for name in ("missing", "."):
        with pytest.raises(PipelineError, match="no pipeline can be loaded"):
            Editor.from_pretrained(tmp_path / name)
    pipeline("ddpm").save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(PipelineError, match="no pipeline can be loaded"):
        Editor.from_pretrained(tmp_path / "pickled")


def test_the_steps_of_a_session_share_what_is_prepared_for_a_region(monkeypatch):
    """So what that takes is spread over them when it is decided what an edit computes."""
    session, uses = opened("sd", steps=4, strength=1.0), []
    update = Incremental.update
    monkeypatch.setattr(
        Incremental, "update", lambda net, state, *a, **k: uses.append(state.uses) or update(net, state, *a, **k)
    )
    session.edit(next(strokes(session, 1)))
    assert uses == [1, *[4] * 4, 1]
