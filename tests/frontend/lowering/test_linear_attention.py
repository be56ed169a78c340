"""Linear attention: keys times values summed over positions, queries times that."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import retouch
from retouch import Region
from retouch.ops.head_product import HeadProduct
from retouch.ops.outer import Outer
from retouch.ops.specs import SPECS
from retouch.runtime.emitter import dirty_values
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store
from support import EXACT, PROBED, SHARED, around, check_rule, compile_all, edit, error, noise, spot

HEADS = 2


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.wide, self.out = nn.Conv2d(8, 24, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)


def _tokens(m, x, which=None):
    """q, k, v [B, N, heads, d], or one of them."""
    found = [t.flatten(2).transpose(1, 2).unflatten(2, (HEADS, -1)) for t in m.qkv(x).chunk(3, 1)]
    return found if which is None else found[which]


def _elu(m, x, read=None):
    """Katharopoulos et al., 2020; with keys and values of what is `read`."""
    q, k, v = _tokens(m, x)
    if read is not None:
        _, k, v = _tokens(m, read)
    q, k = F.elu(q) + 1, F.elu(k) + 1
    kv = torch.einsum("nshd,nshm->nhmd", k, v)
    z = 1 / (torch.einsum("nlhd,nhd->nlh", q, k.sum(1)) + 1e-6)
    y = torch.einsum("nlhd,nhmd->nlhm", q, kv) * z[..., None]
    return y.flatten(2).transpose(1, 2).view_as(x)


def _relu(m, x):
    """As vision transformers write it, normalised by a mean of the keys."""
    q, k, v = (F.relu(t.transpose(1, 2)) for t in _tokens(m, x))
    n = k.shape[2]
    z = 1 / (q @ k.mean(dim=-2, keepdim=True).transpose(-2, -1) + 1e-6)
    y = q @ ((k.transpose(-2, -1) * n**-0.5) @ (v * n**-0.5)) * z
    return y.transpose(2, 3).reshape(x.shape)


def _context(m, x):
    """Shen et al., 2021, without a softmax of the keys; positions last."""
    q, k, v = (t.unflatten(1, (HEADS, -1)).flatten(3) for t in m.qkv(x).chunk(3, 1))
    context = torch.einsum("b h d n, b h e n -> b h d e", F.relu(k), v / n_of(x))
    return torch.einsum("b h d e, b h d n -> b h e n", context, F.relu(q)).reshape(x.shape)


def _padded(m, x):
    """As Sana (Xie et al., 2024) and EfficientViT (Cai et al., 2023) write it: the denominator as one more channel."""
    q, k, v = (t.unflatten(1, (HEADS, -1)).flatten(3) for t in m.qkv(x).chunk(3, 1))
    v = F.pad(v, (0, 0, 0, 1), value=1.0)
    y = (v @ F.relu(k).transpose(2, 3)) @ F.relu(q)
    return (y[:, :, :-1] / (y[:, :, -1:] + 1e-6)).reshape(x.shape)


def n_of(x):
    return x.shape[2] * x.shape[3]


def _one_head(m, x):
    """The queries softmaxed over their channels; matrices from the left."""
    q, k, v = (t.flatten(2) for t in m.qkv(x).chunk(3, 1))
    return ((v @ F.relu(k).transpose(1, 2) / n_of(x)) @ q.softmax(1)).view_as(x)


def _apart(m, x):
    """Keys and values of other reach, so of other rows."""
    k, v = (t.flatten(2).transpose(1, 2) for t in (m.wide(x), m.out(x)))
    return (F.relu(v) @ (k.transpose(1, 2) @ v / n_of(x))).transpose(1, 2).view_as(x)


def _batched(m, x):
    """Samples and heads in one dimension."""
    q, k, v = (t.transpose(1, 2).flatten(0, 1) for t in _tokens(m, x))
    y = torch.bmm(F.silu(q), torch.bmm(k.transpose(1, 2), v) / n_of(x))
    return y.unflatten(0, (-1, HEADS)).transpose(2, 3).reshape(x.shape)


CASES = {
    "elu": _elu, "relu": _relu, "context": _context, "one head": _one_head, "apart": _apart, "batched": _batched,
    "padded": _padded,
    "channels of heads": lambda m, x: F.pad(_tokens(m, x, 1)[:, :, :, 1:3], (1, 1), value=2).flatten(2).transpose(1, 2)
    .view_as(x) + x,
    "residual": lambda m, x: x + m.out(_context(m, x)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_linear_attention(name, batch):
    """Under `exact` every row is computed again: all of them read all positions."""
    function = CASES[name]
    check_rule(
        lambda m, x: function(m.parts, x), batch, lambda: {"parts": Parts()}, local=False, sparse=False, tolerance=1e-5
    )


def test_it_becomes_sums_and_rows_times_them():
    net = compiled(_elu)
    ops = [type(op) for op in net.program.ops]
    assert ops.count(Outer) == 1
    assert ops.count(HeadProduct) == 3  # the numerator, the denominator, and that for all channels of a head


def test_a_softmax_over_positions_runs_densely():
    def function(m, x):
        q, k, v = (t.flatten(2) for t in m.qkv(x).chunk(3, 1))
        return ((v @ k.softmax(2).transpose(1, 2)) @ q.softmax(1)).view_as(x)

    check_rule(
        lambda m, x: function(m.parts, x), 2, lambda: {"parts": Parts()}, local=False, sparse=False,
        fallbacks=["softmax"], tolerance=1e-5,
    )  # fmt: skip


def module_of(function):
    return around(lambda m, x: function(m.parts, x), lambda: {"parts": Parts()})


def compiled(function, policy=SHARED):
    return retouch.compile(module_of(function), (noise(1, 3, 16, 12),), policy=policy)


@pytest.mark.parametrize("stats", ["recorded", "refreshed", "probed"])
def test_sums_follow_the_active_rows_as_statistics_do(stats):
    """Every row that changes is computed, so the sums are those of the edited map, or of the recorded one."""
    module, x, mask = module_of(_elu), noise(1, 3, 16, 12), spot(16, 12)
    edited = edit(x, mask)
    for net in compile_all(module, (x,), replace(PROBED, stats=stats)):
        assert not net.explain().fallbacks
        y, recording = net.record(x)
        updated = net.update(recording, Region.from_mask(mask), edited)
        active = net.active_mask(Region.from_mask(mask))[:, None].expand_as(y)
        assert not active.all()
        read = module.stem(x if stats == "recorded" else edited)
        expected = _elu(module.parts, module.stem(edited), read)
        assert error(updated[active], expected[active]) < 4e-6
        assert torch.equal(updated[~active], y[~active])
        recording.undo()
        assert torch.equal(net.update(recording, Region.from_mask(torch.zeros_like(mask)), x), y)


def test_sums_do_not_drift():
    """Large rows come and go: what is left of them is below the rounding of float32."""
    net, x, mask = compiled(_relu), noise(1, 3, 16, 12), spot(16, 12)
    y, recording = net.record(x)
    for round in range(30):
        net.update(recording, Region.from_mask(mask), edit(x, mask, seed=round) * torch.where(mask, 1e3, 1.0))
        back = net.update(recording, Region.from_mask(mask), x)
    assert error(back, y) < 1e-6


def test_snapshots_hold_the_sums():
    net, x, mask = compiled(_context), noise(1, 3, 16, 12), spot(16, 12)
    _, recording = net.record(x)
    expected = net.update(recording, Region.from_mask(mask), edit(x, mask))
    restored = Snapshot.of(net.record(x)[1], Store()).recording()
    assert torch.equal(net.update(restored, Region.from_mask(mask), edit(x, mask)), expected)
    again = restored.snapshot.recording()
    assert error(net.update(again, Region.from_mask(mask), x), net.module(x)) < 4e-6


@pytest.mark.parametrize(
    "policy", [EXACT, SHARED, replace(SHARED, stats="recorded")], ids=["exact", "shared", "recorded"]
)
@pytest.mark.parametrize("function", [_elu, _apart])
def test_the_planner_knows_its_calls(function, policy):
    net = compiled(function, policy)
    active = net.active(Region.from_mask(spot(16, 12)))
    names = {id(net.backend.kernel(kernel)): kernel for kernel in SPECS}
    schedule = net.schedules.built(active, dirty_values(net.program, set(), active))
    called = Counter(names[id(call.function)] for call in schedule.steps if not call.host)
    told = Counter(work.kernel for work in net.planner.update(active).launches if work.kernel != "dense")
    assert told - Counter(["copy_many"]) == called
    assert ("outer_sums" in called) == (policy.stats != "recorded")


def test_sums_without_float64_keep_what_rounding_loses():
    """Pairs of float32: what is added and taken away leaves no trace."""
    spec, bounds, heads = SPECS["outer_sums"], torch.tensor([0, 50]).int(), 2
    a, b, large = noise(50, 8), noise(50, 6, seed=1), 1e4 * noise(50, 8, seed=2)
    sums, exact = torch.zeros(1, 4 * 24), torch.zeros(1, 2 * 24, dtype=torch.float64)
    single = spec.on(torch.float32)
    single(sums, a, None, b, None, heads, bounds, 1)
    for sign in [1, -1] * 20:
        single(sums, large * (1 + 0.1 * sign), None, b, None, heads, bounds, 1)
        single(sums, large * (1 + 0.1 * sign), None, b, None, heads, bounds, -1)
    spec.reference(exact, a, None, b, None, heads, bounds, 1)
    found, wanted = torch.zeros(1, 24), torch.zeros(1, 24)
    SPECS["fold_mean"].reference(found, sums, None, 1)
    SPECS["fold_mean"].reference(wanted, exact, None, 1)
    assert error(found, wanted) < 1e-6


@pytest.mark.parametrize("policy", [EXACT, SHARED, PROBED], ids=["exact", "shared", "probed"])
@pytest.mark.parametrize("function", [_elu, _apart, _padded])
def test_recordings_that_are_updated_together_get_what_each_gets_alone(function, policy):
    net, x, region = compiled(function, policy), noise(1, 3, 16, 12), Region.from_mask(spot(16, 12))
    edits = [edit(x, spot(16, 12), seed=seed) for seed in (9, 10)]
    alone = [net.update(net.record(x)[1], region, edited) for edited in edits]
    together = net.update_many([net.record(x)[1] for _ in edits], region, [((edited,), {}) for edited in edits])
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
