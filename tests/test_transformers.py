"""The transformers of text and image that people run, tiny: no fallbacks, and the invariants of all networks."""

from functools import cache

import numpy as np
import peft
import pytest
import torch

import retouch
from dits import ALL, GRID, taken, transformer
from retouch import InputError, Policy, PolicyError, Region
from retouch.plan.activity import retraced
from retouch.runtime.executor import Direct
from support import EXACT, SHARED, error, noise, same, spot, state

NAMES = tuple(ALL)
JOINT = ("flux", "flux2", "chroma", "qwen", "z-image", "sd3", "sd3.5")
RECORDED = Policy("recorded", dilate=1, text="recorded", crossover=1.0)
RECOMPUTED = Policy("recomputed", dilate=1, crossover=1.0)

NETS = {}


def compiled(name, policy, backend="cpu"):
    """The text policies share one compiled network for each name."""
    key = name, policy.name, backend
    if key not in NETS:
        NETS[key] = transformer(name).compiled(policy, backend)
    return NETS[key]


def region(name, mask):
    """A region of tokens on the grid of the image."""
    made = transformer(name)
    return Region.from_mask(mask.repeat_interleave(made.scale, 0).repeat_interleave(made.scale, 1))


def tokens(name):
    made = transformer(name)
    shape = made.arguments[made.image].shape
    return GRID if len(shape) == 3 else tuple(n // made.scale for n in shape[2:])


def run(name, policy, mask, changed=None):
    """A recording, what an update of the mask returns, and the arguments of that."""
    net, made = compiled(name, policy), transformer(name)
    edited = made.arguments | made.edited(mask) | (changed or {})
    y, recording = net.record(**made.arguments)
    return net, recording, taken(y), taken(net.update(recording, region(name, mask), **edited)), edited


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_has_a_rule(name):
    assert compiled(name, EXACT).explain().fallbacks == []


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_is_the_module_and_an_exact_update_the_module_after_the_edit(name):
    made = transformer(name)
    _, _, y, updated, edited = run(name, EXACT, spot(*tokens(name)))
    with torch.no_grad():
        after = taken(made.module(**edited))
    assert error(y, made.dense()) < 2e-6
    assert error(updated, after) < 2e-6
    assert error(y, after) > 1e-2


@pytest.mark.parametrize("name", ["flux", "z-image"])
def test_the_reference_kernels_agree(name):
    net, made = compiled(name, EXACT, "reference"), transformer(name)
    y, _ = net.record(**made.arguments)
    assert error(taken(y), made.dense()) < 2e-6


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_region_returns_the_recording_and_runs_nothing(name, monkeypatch):
    net, made = compiled(name, SHARED), transformer(name)
    y, recording = net.record(**made.arguments)
    before = state(recording)
    monkeypatch.setattr(Direct, "run", None)
    again = net.update(recording, region(name, torch.zeros(tokens(name), dtype=torch.bool)), **made.arguments)
    assert torch.equal(taken(again), taken(y))
    assert same(before, state(recording))


@pytest.mark.parametrize("policy", [SHARED, RECORDED], ids=lambda policy: policy.name)
@pytest.mark.parametrize("name", ["flux", "z-image", "sana"])
def test_rows_outside_are_those_of_the_recording_and_undo_brings_all_back(name, policy):
    mask = spot(*tokens(name), size=1)
    net, recording, y, updated, _ = run(name, policy, mask)
    outside = ~net.active_mask(region(name, mask))
    if y.dim() == 3:
        assert torch.equal(updated[outside.flatten(1)], y[outside.flatten(1)])
    else:
        assert torch.equal(updated.movedim(1, -1)[outside], y.movedim(1, -1)[outside])
    assert not torch.equal(updated, y)
    fresh = state(net.record(**transformer(name).arguments)[1])
    recording.undo()
    assert same(state(recording), fresh)


@pytest.mark.parametrize("name", JOINT)
def test_texts_are_recomputed_or_recorded(name):
    mask = spot(*tokens(name), size=1)
    found = {}
    for policy in (SHARED, RECORDED):
        net = compiled(name, policy)
        grid = next(g for g in net.program.grids() if g.text)
        active = net.active(region(name, mask))
        rows = {len(active[v]) for v in active if v.grid == grid}
        assert rows == ({grid.size} if policy is SHARED else {0})
        _, _, _, found[policy.name], _ = run(name, policy, mask)
    assert not torch.equal(*found.values())


@pytest.mark.parametrize("policy", [RECOMPUTED, RECORDED], ids=lambda policy: policy.name)
@pytest.mark.parametrize("name", JOINT)
def test_keys_and_values_of_text_and_picture_are_read_where_they_lie(name, policy):
    net = compiled(name, policy)
    launches = net.planner.update(net.active(region(name, spot(*tokens(name), size=1)))).launches
    assert [each.kernel for each in launches].count("attention") >= 1
    assert "copy_rows" not in {each.kernel for each in launches}


def test_texts_are_recomputed_in_every_second_call():
    name, mask = "flux", spot(*GRID, size=1)
    net, made = compiled(name, Policy("second", dilate=1, text=2, crossover=1.0)), transformer(name)
    edited = made.arguments | made.edited(mask)
    _, recording = net.record(**made.arguments)
    for call, policy in enumerate((RECOMPUTED, RECORDED) * 2):
        recording.call = call
        found = taken(net.update(recording, region(name, mask), **edited))
        assert torch.equal(found, run(name, policy, mask)[3])
        rows = {v: table for v, table in net.active(region(name, mask), call=call).items() if v in net.plan.kept}
        again = retraced(net.program, net.policy, rows, set())
        assert {v: len(t) for v, t in again.items()} == {
            v: len(t) for v, t in net.active(region(name, mask), call=call).items()
        }
        recording.undo()


def test_recordings_are_updated_together_as_each_by_itself():
    net, made = compiled("flux", SHARED), transformer("flux")
    mask = spot(*GRID, size=1)
    inputs = [made.arguments | made.edited(mask, seed) for seed in (3, 4)]
    recordings = [net.record(**made.arguments)[1] for _ in inputs]
    alone = [taken(net.update(r, region("flux", mask), **given)) for r, given in zip(recordings, inputs, strict=True)]
    for recording in recordings:
        recording.undo()
    together = net.update_many(recordings, region("flux", mask), [((), given) for given in inputs])
    assert all(torch.equal(taken(a), b) for a, b in zip(together, alone, strict=True))


def test_recorded_texts_are_computed_again_when_the_words_change():
    name, made = "flux", transformer("flux")
    mask = torch.ones(GRID, dtype=torch.bool)
    words = {"encoder_hidden_states": made.arguments["encoder_hidden_states"].flip(1)}
    _, _, _, updated, edited = run(name, RECORDED, mask, words)
    with torch.no_grad():
        assert error(updated, taken(made.module(**edited))) < 2e-6


def test_texts_that_cannot_be():
    with pytest.raises(PolicyError, match="'recomputed' or 'recorded'"):
        Policy(text="forgotten")
    for number in (1, True, 2.0):
        with pytest.raises(PolicyError, match="a number above 1"):
            Policy(text=number)
    for text in ("recorded", 2):
        with pytest.raises(PolicyError, match="exact"):
            Policy(exact=True, text=text)


def test_a_lora_that_is_added_later_is_refused_and_one_that_is_fused_is_taken_over():
    made, mask = ALL["flux"](), spot(*GRID)
    net = made.compiled(EXACT)
    y, recording = net.record(**made.arguments)
    config = peft.LoraConfig(target_modules=["to_q"], r=4, init_lora_weights=False)
    made.module.add_adapter(config, adapter_name="late")
    with pytest.raises(
        retouch.WeightsChangedError, match=r"replaced since it was compiled .* compile the module again"
    ):
        net.update(recording, Region.from_mask(mask), **made.arguments | made.edited(mask))
    made.module.fuse_lora()
    made.module.unload_lora()
    again, _ = net.record(**made.arguments)
    assert error(taken(again), made.dense()) < 2e-6
    assert error(taken(again), taken(y)) > 1e-2


def test_layouts_that_do_not_fit():
    made = transformer("flux")
    for layouts, text in (
        ({"hidden_states": retouch.tokens(7, 7)}, "layout"),
        ({"pixels": retouch.tokens(*GRID)}, "no argument 'pixels'"),
    ):
        with pytest.raises(InputError, match=text):
            retouch.compile(made.module, kwargs=made.arguments, layouts=layouts)


REFERENCE = 4, 5
"""Positions of another picture in the same sequence."""


@cache
def with_reference(policy, backend="cpu"):
    """FLUX.1 on the tokens of two pictures, as Kontext reads them, with its arguments."""
    made = transformer("flux")
    size = REFERENCE[0] * REFERENCE[1]
    ids = torch.cat([made.arguments["img_ids"], torch.ones(size, 3)])
    both = torch.cat([made.arguments["hidden_states"], noise(1, size, 16, seed=5)], 1)
    arguments = made.arguments | {"hidden_states": both, "img_ids": ids}
    layouts = {"hidden_states": retouch.tokens(*GRID, REFERENCE)}
    return retouch.compile(made.module, kwargs=arguments, layouts=layouts, policy=policy, backend=backend), arguments


def rows_of(net, active, reference):
    """How many rows are computed of values of the references, or of the picture."""
    return {len(active[v]) for v in active if not v.grid.text and bool(v.grid.reference) == reference}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_pictures_in_one_sequence_are_the_module_after_edits_of_either(backend):
    net, arguments = with_reference(EXACT, backend)
    module, pixels = transformer("flux").module, GRID[0] * GRID[1]
    assert net.explain().fallbacks == []
    y, recording = net.record(**arguments)
    assert error(taken(y), taken(module(**arguments))) < 2e-6
    before, both = state(recording), arguments["hidden_states"]
    mask = spot(*GRID)
    edited = both.clone()
    edited[:, :pixels][:, mask.flatten()] += 1
    other = both.clone()
    other[:, pixels + 3] += 1
    for given, where in ((edited, mask), (other, mask & False), (torch.where(other == both, edited, other), mask)):
        changed = arguments | {"hidden_states": given}
        updated = taken(net.update(recording, Region.from_mask(where), **changed))
        assert error(updated, taken(module(**changed))) < 2e-6
        assert error(updated, taken(y)) > 1e-2
        recording.undo()
        assert same(before, state(recording))


def test_references_stay_as_recorded_until_they_are_others():
    net, arguments = with_reference(SHARED)
    region, pixels = Region.from_mask(spot(*GRID, size=1)), GRID[0] * GRID[1]
    assert rows_of(net, net.active(region), reference=True) == {0}
    y, recording = net.record(**arguments)
    edited = arguments["hidden_states"].clone()
    edited[:, :pixels] += 1
    updated = taken(net.update(recording, region, **arguments | {"hidden_states": edited}))
    assert torch.equal(updated[:, pixels:], taken(y)[:, pixels:])
    assert not torch.equal(updated, taken(y))
    recording.undo()
    edited[:, pixels:] += 1
    updated = taken(net.update(recording, region, **arguments | {"hidden_states": edited}))
    assert (updated[:, pixels:] != taken(y)[:, pixels:]).any(2).all()
    few = len(updated[0, :pixels]) - int((updated[:, :pixels] == taken(y)[:, :pixels]).all(2).sum())
    assert 0 < few < pixels


def test_references_that_do_not_fit():
    net, arguments = with_reference(SHARED)
    with pytest.raises(InputError, match="positions"):
        retouch.compile(net.module, kwargs=arguments, layouts={"hidden_states": retouch.tokens(*GRID, (4, 4))})
    with pytest.raises(InputError, match="shape"):
        net.record(**arguments | {"hidden_states": arguments["hidden_states"][:, :-1]})


def test_several_maps_as_tokens_of_two_samples():
    """Tokens of two samples, each with an edit of its own."""
    norm = torch.nn.LayerNorm(8)
    x = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
    net = retouch.compile(norm.eval(), x, layouts={"input": retouch.tokens(3, 4)}, policy=EXACT)
    y, recording = net.record(x)
    mask = np.zeros((2, 3, 4), bool)
    mask[0, 1, 2], mask[1, 0, 0] = True, True
    edited = torch.where(torch.from_numpy(mask).reshape(2, 12, 1), x + 1.5 * x.roll(1, -1), x)
    updated = net.update(recording, Region.from_mask(mask), edited)
    assert torch.allclose(updated, norm(edited), atol=1e-6)
    assert torch.equal(updated[0, :6], y[0, :6])
