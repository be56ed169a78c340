"""Attention: whole, by hand, with and without a context."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from retouch import Policy, Region
from retouch.frontend.lowering.context import count_macs
from support import around, check_rule, compile_all, edit, error, noise, spot

CONTEXT = noise(2, 5, 12, seed=7)


class Attention(nn.Module):
    """Projections to queries, keys and values (of a context of width 12, if there is one)."""

    def __init__(self, heads=2, width=8, context=0, bias=True):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(8, width, bias=bias)
        self.k = nn.Linear(context or 8, width, bias=bias)
        self.v = nn.Linear(context or 8, width, bias=bias)
        self.out = nn.Linear(width, 8)

    def project(self, x, context=None):
        """(B, N, C) for each of q, k, v."""
        tokens = x.flatten(2).transpose(1, 2)
        context = tokens if context is None else context
        return self.q(tokens), self.k(context), self.v(context)

    def split(self, t):
        """(B, N, C) to (B, heads, N, d)."""
        return t.view(t.shape[0], -1, self.heads, t.shape[-1] // self.heads).transpose(1, 2)

    def merge(self, t, x):
        tokens = self.out(t.transpose(1, 2).reshape(x.shape[0], -1, self.out.in_features))
        return tokens.transpose(1, 2).reshape(x.shape[0], 8, *x.shape[2:])


def _sdpa(**options):
    def run(m, x, *context):
        q, k, v = (m.op.split(t) for t in m.op.project(x, *context))
        return m.op.merge(F.scaled_dot_product_attention(q, k, v, **options), x)

    return run


def _residual(m, x, *context):
    return x + _sdpa()(m, x, *context)


def _matmul(m, x, *context):
    q, k, v = (m.op.split(t) for t in m.op.project(x, *context))
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return m.op.merge(scores.softmax(-1) @ v, x)


def _scaled_queries(m, x, *context):
    q, k, v = (m.op.split(t) for t in m.op.project(x, *context))
    return m.op.merge(torch.softmax((q * 0.4) @ k.mT, dim=-1) @ v, x)


def _stacked(t, heads):
    """(B, N, C) to (B * heads, N, d)."""
    b, n, c = t.shape
    return t.reshape(b, n, heads, c // heads).permute(0, 2, 1, 3).reshape(b * heads, n, -1)


def _unstacked(m, t, x):
    return m.op.merge(t.reshape(x.shape[0], m.op.heads, -1, t.shape[-1]), x)


def _bmm(m, x):
    q, k, v = (_stacked(t, m.op.heads) for t in m.op.project(x))
    weights = (torch.bmm(q, k.transpose(1, 2)) * 0.5).softmax(-1)
    return _unstacked(m, torch.bmm(weights, v), x)


def _baddbmm(m, x):
    q, k, v = (_stacked(t, m.op.heads) for t in m.op.project(x))
    empty = torch.empty(q.shape[0], q.shape[1], k.shape[1])
    scores = torch.baddbmm(empty, q, k.transpose(-1, -2), beta=0, alpha=0.5)
    return _unstacked(m, torch.bmm(scores.softmax(dim=-1), v), x)


def _packed(m, x):
    q, k, v = torch.cat(m.op.project(x), -1).chunk(3, -1)
    q, k, v = (m.op.split(t) for t in (q, k, v))
    return m.op.merge(F.scaled_dot_product_attention(q, k, v), x)


def _convolved(m, x):
    """One head, 1x1 convolutions, tokens by view: as in VAEs."""
    b, c, h, w = x.shape
    q, k, v = (m.conv(x + i).view(b, c, h * w).transpose(1, 2) for i in range(3))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)


def _pooled_keys(m, x):
    """Keys and values from a smaller grid."""
    small = F.avg_pool2d(x, 2)
    q, k, v = m.op.q(x.flatten(2).mT), m.op.k(small.flatten(2).mT), m.op.v(small.flatten(2).mT)
    return m.op.merge(F.scaled_dot_product_attention(*map(m.op.split, (q, k, v))), x)


def _moved_keys(m, x):
    """Keys and values that are only moved rows: flipped, resized."""
    tokens = x.flatten(2).transpose(1, 2)
    keys, values = x.flip(3).flatten(2).mT, x.flip(2).flatten(2).mT
    return F.scaled_dot_product_attention(tokens, keys, values).mT.reshape(x.shape)


def _channels_first(m, x):
    """Positions last, as in self-attention GANs: energies over keys, values times their transpose."""
    q, k, v = (t.transpose(1, 2) for t in m.op.project(x))
    weights = torch.bmm(q.permute(0, 2, 1), k).softmax(-1)
    return torch.bmm(v, weights.permute(0, 2, 1)).view(x.shape)


def _softmax_over_rows(m, x):
    """The other convention: energies k^T q, softmax over the first of both."""
    q, k, v = (t.transpose(1, 2) for t in m.op.project(x))
    weights = torch.bmm(k.transpose(1, 2), q).softmax(1)
    return torch.bmm(v, weights).view(x.shape)


def _einsum(scores, values):
    def run(m, x):
        q, k, v = (m.op.split(t) for t in m.op.project(x))
        weights = (torch.einsum(scores, *((q, k) if scores[2] == "i" else (k, q))) * 0.5).softmax(-1)
        mixed = torch.einsum(values, *((weights, v) if values[2] == "i" else (v, weights)))
        return m.op.merge(mixed if values.endswith("hid") else mixed.transpose(1, 2), x)

    return run


SELF = {
    "channels first": (_channels_first, {"heads": 1}),
    "softmax over rows": (_softmax_over_rows, {"heads": 1}),
    "einsum": (_einsum("bhid,bhjd->bhij", "bhij,bhjd->bhid"), {}),
    "einsum, keys first": (_einsum("bhjd,bhid->bhij", "bhij,bhjd->bihd"), {}),
    "einsum, values first": (_einsum("bhid,bhjd->bhij", "bhjd,bhij->bhid"), {}),
    "sdpa": (_sdpa(), {}),
    "sdpa, one head": (_sdpa(), {"heads": 1}),
    "sdpa, a head for each channel": (_sdpa(), {"heads": 8}),
    "sdpa, own scale": (_sdpa(scale=0.7), {}),
    "sdpa, width 24": (_sdpa(), {"heads": 3, "width": 24}),
    "sdpa, causal": (_sdpa(is_causal=True), {}),
    "sdpa without bias": (_sdpa(), {"bias": False}),
    "residual": (_residual, {}),
    "matmul": (_matmul, {}),
    "matmul, scaled queries": (_scaled_queries, {"heads": 1}),
    "bmm": (_bmm, {}),
    "bmm, one head": (_bmm, {"heads": 1}),
    "baddbmm": (_baddbmm, {}),
    "packed projection": (_packed, {}),
    "convolved": (_convolved, {}),
    "pooled keys": (_pooled_keys, {}),
    "moved keys": (_moved_keys, {}),
}


def _by_hand(m, x, context):
    q, k, v = (m.op.split(t) for t in m.op.project(x, context))
    return m.op.merge((q @ k.transpose(-2, -1) * 0.4).softmax(-1) @ v, x)


def _by_einsum(m, x, context):
    q, k, v = (m.op.split(t) for t in m.op.project(x, context))
    return m.op.merge(torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1), v), x)


CROSS = {
    "by hand": _by_hand,
    "by einsum": _by_einsum,
    "sdpa": _sdpa(),
    "sdpa, own scale": _sdpa(scale=0.3),
    "sdpa, causal": _sdpa(is_causal=True),
    "residual": _residual,
}


@pytest.mark.parametrize("name", SELF)
def test_self_attention(name, batch):
    function, options = SELF[name]
    check_rule(
        function, batch, lambda: {"op": Attention(**options), "conv": nn.Conv2d(8, 8, 1)},
        local=False, sparse=False, tolerance=4e-6,
    )  # fmt: skip


@pytest.mark.parametrize("name", CROSS)
@pytest.mark.parametrize("heads", [1, 2])
def test_cross_attention(name, heads, batch):
    """Without a whole map to read, an update under `exact` is a fresh recording bit for bit."""
    check_rule(
        CROSS[name], batch, lambda: {"op": Attention(heads, context=12)}, extra=[CONTEXT],
        tolerance=4e-6,
    )  # fmt: skip


class Grouped(Attention):
    """Fewer heads of keys and values than of queries."""

    def __init__(self, heads, shared, context=0):
        super().__init__(heads, context=context)
        self.k, self.v = (nn.Linear(context or 8, 8 // heads * shared) for _ in range(2))
        self.shared = shared

    def forward(self, x, *context, **options):
        q, k, v = self.project(x, *context)
        k, v = (t.unflatten(2, (self.shared, -1)).transpose(1, 2) for t in (k, v))
        return self.merge(F.scaled_dot_product_attention(self.split(q), k, v, enable_gqa=True, **options), x)


@pytest.mark.parametrize(("heads", "shared"), [(4, 2), (4, 1), (2, 2)])
def test_grouped_queries(heads, shared, batch):
    check_rule(
        lambda m, x: m.op(x), batch, lambda: {"op": Grouped(heads, shared)}, local=False, sparse=False, tolerance=4e-6
    )
    check_rule(
        lambda m, x, context: m.op(x, context), batch, lambda: {"op": Grouped(heads, shared, context=12)},
        extra=[CONTEXT], tolerance=4e-6,
    )  # fmt: skip


def test_grouped_queries_with_a_mask_of_keys(batch):
    mask = torch.arange(192) % 3 > 0
    check_rule(
        lambda m, x: m.op(x, attn_mask=mask[None, None, None]), batch, lambda: {"op": Grouped(4, 2)}, local=False,
        sparse=False, tolerance=4e-6,
    )  # fmt: skip


def test_grouped_queries_of_causal_attention(batch):
    check_rule(
        lambda m, x: m.op(x, is_causal=True), batch, lambda: {"op": Grouped(4, 2)}, local=False, sparse=False,
        tolerance=4e-6,
    )  # fmt: skip


@pytest.mark.parametrize("first", ["text", "map"])
def test_causal_attention_of_a_text_and_a_map(first, batch):
    """In one sequence, in either order: each token reads those before it."""

    def run(m, x, context):
        text, tokens = m.text(context), x.flatten(2).mT
        joined = torch.cat([text, tokens] if first == "text" else [tokens, text], 1)
        q, k, v = (m.op.split(part(joined)) for part in (m.op.q, m.op.k, m.op.v))
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        start = text.shape[1] if first == "text" else 0
        return m.op.out(found[:, start : start + tokens.shape[1]]).mT.unflatten(2, x.shape[2:])

    check_rule(
        run, batch, lambda: {"op": Attention(), "text": nn.Linear(12, 8)}, extra=[CONTEXT], local=False, sparse=False,
        tolerance=4e-6,
    )  # fmt: skip


def test_keys_of_groups_are_kept_once():
    made = around(lambda m, x: m.op(x), lambda: {"op": Grouped(4, 1)})
    kept = compile_all(made, (noise(1, 3, 16, 12),), Policy(crossover=1.0))[0].plan.keys_values
    assert [v.channels for v in kept] == [2, 2]


def _softmax_over_queries(m, x):
    q, k, v = m.op.project(x)
    return m.op.merge(m.op.split((q @ k.mT).softmax(1) @ v), x)


GATES = noise(2, 192, seed=9).abs()


def _gated(m, x, gates):
    return _sdpa(attn_mask=gates[:, None, None] * gates[:, None, :, None])(m, x)


def test_masks_that_are_numbers_of_keys_times_numbers_of_queries(batch):
    check_rule(_gated, batch, lambda: {"op": Attention()}, extra=[GATES], local=False, sparse=False, tolerance=4e-6)


@pytest.mark.parametrize("first", ["text", "map"])
def test_such_masks_of_joined_tokens(first, batch):
    def run(m, x, context, gates):
        text, tokens = m.text(context), x.flatten(2).mT
        joined = torch.cat([text, tokens] if first == "text" else [tokens, text], 1)
        q, k, v = (m.op.split(part(joined)) for part in (m.op.q, m.op.k, m.op.v))
        mask = gates[:, None, :, None] * gates[:, None, None]
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        start = text.shape[1] if first == "text" else 0
        return m.op.out(found[:, start : start + tokens.shape[1]]).mT.unflatten(2, x.shape[2:])

    gates = torch.cat([GATES, noise(2, 5, seed=3)], 1)
    check_rule(
        run, batch, lambda: {"op": Attention(), "text": nn.Linear(12, 8)}, extra=[CONTEXT, gates], local=False,
        sparse=False, tolerance=4e-6,
    )  # fmt: skip


DENSE = {
    "masked of both": lambda m, x: _sdpa(attn_mask=(GATES[:1, None] > 0.5) * (GATES[:1, :, None] > 0.2))(m, x),
    "masked": _sdpa(attn_mask=torch.ones(192, 192).tril().bool()),
    "biased": _sdpa(attn_mask=noise(192, 192, seed=5)),
}


@pytest.mark.parametrize("name", DENSE)
def test_masked_attention_runs_densely(name, batch):
    check_rule(
        DENSE[name], batch, lambda: {"op": Attention()}, local=False, sparse=False,
        fallbacks=["scaled_dot_product_attention"], tolerance=4e-6,
    )  # fmt: skip


def test_a_softmax_over_the_queries_runs_densely(batch):
    check_rule(
        _softmax_over_queries, batch, lambda: {"op": Attention()}, local=False, sparse=False, fallbacks=["matmul_1"],
        tolerance=4e-6,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["flipped", "upsampled"])
def test_moved_keys_on_a_grid_that_is_computed_whole(name):
    """Rows that are only moved are read whole even where nothing is kept."""

    def run(m, x):
        small = F.avg_pool2d(x, 2)
        wide = F.interpolate(small[:, :, ::2, ::2], scale_factor=2.0)
        keys = {"flipped": small.flip(3), "upsampled": wide}[name].flatten(2).mT
        y = F.scaled_dot_product_attention(small.flatten(2).mT, keys, keys).mT.view_as(small)
        return x + F.interpolate(y, scale_factor=2.0)

    x, mask = noise(1, 3, 16, 12), spot(16, 12)
    results = []
    for net in compile_all(around(run), (x,), Policy(dilate=2, dense_below=1.0, crossover=1.0)):
        _, recording = net.record(x)
        results.append(net.update(recording, Region.from_mask(mask), edit(x, mask)))
    assert error(*results) < 4e-6


@pytest.mark.parametrize("masked", [False, True])
def test_the_arithmetic_of_attention_that_no_rule_takes_is_counted(masked):
    class Attention(nn.Module):
        def forward(self, q, k):
            mask = torch.zeros(16, 24) if masked else None
            return F.scaled_dot_product_attention(q, k, k, mask)

    program = torch.export.export(Attention(), (torch.randn(2, 4, 16, 8), torch.randn(2, 4, 24, 8)))
    (node,) = [n for n in program.graph.nodes if "attention" in n.name]
    assert count_macs(node) == 2 * 2 * 4 * 16 * 24 * 8
