"""The invariants of every change, over all networks."""

import numpy as np
import pytest
import torch
from torch import Tensor

from networks import LOCAL, NAMES, TEXT, TIMED, case, compiled, edits, record, update
from retouch import Policy, Region, models
from retouch.ops.dense import Dense
from retouch.runtime.executor import Direct
from support import EXACT, PROBED, SHARED, error, same, state

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

POLICIES = ("paper", "balanced", "fast")
TOLERANCE = 5e-5
ILL_CONDITIONED = {"gaugan-compressed": 3e-4}
"""Its instance norms see two positions on the smallest grid: PyTorch's own rounding makes 1.6e-5."""


def tolerance(name):
    return ILL_CONDITIONED.get(name, TOLERANCE)


"""Between two ways of summing the same float32 numbers, through a whole network."""


def turns(names, policies, each):
    """Networks with `each` of the policies in turn; with all of them where rows outside are compared."""
    pairs = [(name, policies[(n + k) % len(policies)]) for n, name in enumerate(names) for k in range(each)]
    named = [f"{name}-{policy.name if isinstance(policy, Policy) else policy}" for name, policy in pairs]
    return pytest.mark.parametrize(("name", "policy"), pairs, ids=named)


def rms(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).square().mean().sqrt())


# 1. A recording is the dense module.


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_record_is_at_most_twice_as_far_from_float64_as_pytorch(name, backend):
    made = case(name)
    truth, dense = made.dense(torch.float64), made.dense()
    y, _ = record(compiled(name, EXACT, backend), made)
    assert y.shape == dense.shape
    assert rms(y, truth) <= 2 * rms(dense, truth)


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_has_a_rule(name):
    assert compiled(name, EXACT).explain().fallbacks == []


# 2. A row's value does not depend on the other rows.


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("where", [(0.3, 0.55, 0.1), (0.0, 0.0, 0.05), (0.95, 0.9, 0.05)])
def test_exact_update_is_a_fresh_recording_bit_for_bit(name, where):
    net, made = compiled(name, EXACT), case(name)
    edited = made.edited(made.spot(*where))
    y, recording = record(net, made)
    updated = update(net, recording, made.spot(*where), edited)
    fresh, again = record(net, edited)
    assert not torch.equal(updated, y)
    assert torch.equal(updated, fresh)
    assert same(state(recording), state(again))


@pytest.mark.parametrize("name", NAMES)
def test_exact_update_is_a_fresh_recording_within_rounding(name):
    net, made = compiled(name, EXACT), case(name)
    edited = made.edited(made.spot())
    _, recording = record(net, made)
    updated = update(net, recording, made.spot(), edited)
    assert error(updated, record(net, edited)[0]) < tolerance(name)
    assert error(updated, edited.dense()) < tolerance(name)


@turns(NAMES, ["balanced", SHARED], each=1)
def test_update_of_everything_is_a_fresh_recording(name, policy):
    net, made = compiled(name, policy), case(name)
    mask = torch.ones(made.size, dtype=torch.bool)
    edited = made.edited(mask)
    _, recording = record(net, made)
    updated = update(net, recording, mask, edited)
    assert error(updated, record(net, edited)[0]) < tolerance(name)


def test_result_does_not_depend_on_the_number_of_threads():
    net, made = compiled("taesd", EXACT), case("taesd")
    y, _ = record(net, made)
    torch.set_num_threads(2)
    try:
        again, _ = record(net, made)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(y, again)


# 3. Nothing changed: nothing runs.


@turns(NAMES, ["exact", *POLICIES], each=1)
def test_empty_region_returns_the_recording_and_runs_nothing(name, policy, monkeypatch):
    net, made = compiled(name, policy), case(name)
    y, recording = record(net, made)
    before = state(recording)
    monkeypatch.setattr(Direct, "run", None)
    assert torch.equal(update(net, recording, torch.zeros(made.size, dtype=torch.bool), made), y)
    assert same(before, state(recording))


# 4. Outside its active rows an operation changes nothing.


@turns(NAMES, [*POLICIES, SHARED, PROBED], each=5)
def test_rows_outside_are_those_of_the_recording(name, policy):
    net, made = compiled(name, policy), case(name)
    mask = made.spot()
    region, edited = Region.from_mask(mask), made.edited(mask)
    y, recording = record(net, made)
    before = {v: rows.clone() for v, rows in recording.buffers.items()}
    updated = update(net, recording, mask, edited)
    assert not torch.equal(updated, y)
    outside = ~net.active_mask(region)[:, None].expand_as(y)
    assert torch.equal(updated[outside], y[outside])
    if not outside.any():
        return  # over the crossover: everything was computed

    producers = net.program.producers()
    for value, table in net.active(region).items():
        if value in before and not isinstance(producers.get(value), Dense):
            others = np.setdiff1d(np.arange(value.rows), table.edited.array)
            assert torch.equal(before[value][others], recording.buffers[value][others]), value


@pytest.mark.parametrize("name", [n for n in NAMES if "full width" not in n])
def test_shared_regions_come_closer_to_dense_than_the_recording(name):
    """The approximation is one: inside the edit it is near the dense result, not near the original."""
    net, made = compiled(name, "balanced"), case(name)
    mask = made.spot(size=0.2)
    edited = made.edited(mask)
    y, recording = record(net, made)
    updated, dense = update(net, recording, mask, edited), edited.dense()
    inside = net.active_mask(Region.from_mask(mask))[:, None].expand_as(y)
    assert rms(updated[inside], dense[inside]) < 0.7 * rms(y[inside], dense[inside])


# 5. What has no grid and depends on a changed input is computed again.


def _other(name):
    """Cases that differ from the example in one input without a grid."""
    made = case(name)
    for i, argument in enumerate(made.args[1:], 1):
        changed = argument + 1 if not argument.is_floating_point() else argument.flip(-1) * 0.9
        args = (*made.args[:i], changed, *made.args[i + 1 :])
        yield type(made)(made.module, args, made.kwargs, made.size)
    for key, value in made.kwargs.items():
        for part, tensor in value.items():
            kwargs = {**made.kwargs, key: {**value, part: tensor * 0.9}}
            yield type(made)(made.module, made.args, kwargs, made.size)


@pytest.mark.parametrize("edit", [False, True], ids=["unchanged image", "edited image"])
@pytest.mark.parametrize("name", TIMED)
def test_changed_prompt_or_time_step_is_computed_again(name, edit):
    net, made = compiled(name, EXACT), case(name)
    mask = made.spot() if edit else torch.zeros(made.size, dtype=torch.bool)
    for other in _other(name):
        changed = other.edited(mask)
        y, recording = record(net, made)
        before = state(recording)
        updated = update(net, recording, mask, changed)
        assert error(updated, record(net, changed)[0]) < tolerance(name)
        assert error(y, updated) > 100 * TOLERANCE
        recording.undo()
        assert same(before, state(recording))


@pytest.mark.parametrize("name", TEXT)
def test_changed_prompt_changes_the_region_under_shared_regions(name):
    net, made = compiled(name, "balanced"), case(name)
    mask, other = made.spot(), list(_other(name))[1]
    _, recording = record(net, made)
    with_prompt = update(net, recording, mask, other.edited(mask))
    recording.undo()
    without = update(net, recording, mask, made.edited(mask))
    inside = net.active_mask(Region.from_mask(mask))[:, None].expand_as(without)
    assert not torch.equal(with_prompt[inside], without[inside])
    assert torch.equal(with_prompt[~inside], without[~inside])


# 6. Edits are undone and redone bit for bit, and add up.


@turns(NAMES, ["balanced", "exact", SHARED, PROBED], each=2)
def test_edits_are_undone_and_redone_bit_for_bit(name, policy):
    net, made = compiled(name, policy), case(name)
    y, recording = record(net, made)
    outputs, states = [y], [state(recording)]
    for mask, edited in edits(made, 4, seed=5):
        outputs.append(update(net, recording, mask, edited))
        states.append(state(recording))
    nothing = torch.zeros(made.size, dtype=torch.bool)
    for expected in states[-2::-1]:
        recording.undo()
        assert same(expected, state(recording))
    for expected in states[1:]:
        recording.redo()
        assert same(expected, state(recording))
    for _ in range(3):
        recording.undo()
    _, again = next(edits(made, 1, seed=5))
    assert torch.equal(update(net, recording, nothing, again), outputs[1])


@pytest.mark.parametrize("name", NAMES)
def test_edits_in_sequence_stay_near_a_fresh_recording(name):
    net, made = compiled(name, EXACT), case(name)
    _, recording = record(net, made)
    for mask, edited in edits(made, 4, seed=5):
        updated = update(net, recording, mask, edited)
        assert error(updated, record(net, edited)[0]) < tolerance(name)


# 7. Backends agree.


@turns(NAMES, ["fast", SHARED, PROBED], each=2)
def test_backends_agree_in_float32(name, policy):
    made = case(name)
    mask = made.spot()
    results = []
    for backend in ("cpu", "reference"):
        net = compiled(name, policy, backend)
        y, recording = record(net, made)
        results.append((y, update(net, recording, mask, made.edited(mask))))
    (y, updated), (y_reference, updated_reference) = results
    assert error(y, y_reference) < tolerance(name)
    assert error(updated, updated_reference) < tolerance(name)


@turns([n for n in NAMES if "full width" not in n], [EXACT, SHARED, EXACT, PROBED], each=2)
def test_bfloat16_is_as_near_to_float32_as_pytorch_is(name, policy):
    single, made = case(name), case(name, torch.bfloat16)
    mask = made.spot()
    truth, other_truth = single.dense(), single.edited(mask).dense()
    bound = 1.5 * rms(made.dense(), truth)
    assert made.dense().dtype == torch.bfloat16
    for backend in ("cpu", "reference"):
        net = compiled(name, policy, backend, torch.bfloat16)
        y, recording = record(net, made)
        assert y.dtype == torch.bfloat16
        assert rms(y, truth) <= bound, backend
        updated = update(net, recording, mask, made.edited(mask))
        if policy is EXACT:
            assert rms(updated, other_truth) <= bound, backend


@pytest.mark.parametrize("name", [n for n in LOCAL if "full width" not in n])
def test_exact_update_in_bfloat16_is_a_fresh_recording_bit_for_bit(name):
    made = case(name, torch.bfloat16)
    net = compiled(name, EXACT, "cpu", torch.bfloat16)
    edited = made.edited(made.spot())
    _, recording = record(net, made)
    updated = update(net, recording, made.spot(), edited)
    assert torch.equal(updated, record(net, edited)[0])


def test_dataclass_results_are_those_of_the_module():
    net, made = compiled("ddpm-256", EXACT), case("ddpm-256")
    y, _ = net.record(*made.args)
    assert type(y) is type(made.module(*made.args))
    assert models.tensor_of(y) is y.sample


def test_policies_are_ordered_by_what_they_compute():
    made = case("ddpm-256")
    region = Region.from_mask(made.spot(size=0.05))
    shares = [compiled("ddpm-256", p).explain(region).macs_active for p in ("fast", "balanced")]
    whole = compiled("ddpm-256", Policy("whole", dense_below=1.0)).explain(region).macs_active
    assert shares[0] <= shares[1] <= whole
