"""Operations without a rule: right under `exact`, and named with the reason."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import retouch
from retouch import Policy, Region
from support import EXACT, SHARED, check_rule, edit, error, fill, noise, spot


def _qkv(select, scale=1.0):
    """Packed queries, keys and values as vision transformers have them."""

    def run(m, x):
        b, c, h, w = x.shape
        qkv = m.qkv(x.flatten(2).transpose(1, 2)).reshape(b, h * w, 3, 2, c // 2)
        q, k, v = select(qkv.permute(2, 0, 3, 1, 4))
        y = F.scaled_dot_product_attention(q * scale, k, v).transpose(1, 2).reshape(b, h * w, c)
        return y.transpose(1, 2).reshape(x.shape)

    return run


def _linear_attention(m, x):
    b, c, h, w = x.shape
    q, k, v = (t.reshape(b, 2, c // 2, h * w) for t in (x, x * 2, x + 1))
    context = torch.einsum("bhdn,bhen->bhde", k.softmax(3), v)
    return torch.einsum("bhde,bhdn->bhen", context, q.softmax(2)).reshape(x.shape)


def _values_first(m, x):
    """Attention as older VAEs have it: values times transposed weights."""
    b, c, h, w = x.shape
    q, k, v = x.reshape(b, c, h * w).permute(0, 2, 1), x.reshape(b, c, h * w), x.flatten(2)
    weights = torch.softmax(torch.bmm(q, k) * c**-0.5, 2).permute(0, 2, 1)
    return torch.bmm(v, weights).reshape(x.shape)


CASES = {
    "fourier": (lambda m, x: torch.fft.ifft2(torch.fft.fft2(x) * 0.5).real, "fft_fft2"),
    "cumulative sum": (lambda m, x: x.cumsum(3), "cumsum"),
    "cumulative sum of a slice": (lambda m, x: x.chunk(2, 1)[1].cumsum(2), "cumsum"),
    "cumulative sum of a crop": (lambda m, x: x[:, :, 1:, 1:].cumsum(2), "cumsum"),
    "cumulative sum of a concatenation": (
        lambda m, x: torch.cat([x, F.silu(x)], 1).cumsum(1), "cumsum",
    ),
    "two in a row": (lambda m, x: x.cumsum(2).cumsum(3) * 0.1, "cumsum"),
    "softmax over positions": (lambda m, x: x.flatten(2).softmax(2).view_as(x), "softmax"),
    "sorted channels": (lambda m, x: x.sort(1)[0], "sort"),
    "top channels": (lambda m, x: x.topk(3, 1)[0], "topk"),
    "global sum": (lambda m, x: x / (1 + x.square().sum()), "sum_1"),
    "global maximum": (lambda m, x: x * F.adaptive_max_pool2d(x, 1), "adaptive_max_pool2d"),
    "flattened": (lambda m, x: x + m.flat(x.flatten(1))[:, :, None, None], "linear"),
    "token mixing": (lambda m, x: m.mix(x.flatten(2)).view_as(x), "linear"),
    "grid sample": (lambda m, x: m.sampled(x), "grid_sampler"),
    "unfold": (lambda m, x: F.unfold(x, 3, padding=1).view(-1, 72, 16, 12), "im2col"),
    "repeat interleave": (lambda m, x: x.repeat_interleave(2, 1), None),
    "index": (lambda m, x: x[:, [3, 0, 1]], "index"),
    "gather": (lambda m, x: x.gather(1, m.index.expand(len(x), -1, 16, 12)), "gather"),
    "double": (lambda m, x: x.double().cumsum(1).float(), "_to_copy"),
    "coordinates": (lambda m, x: torch.cat([x, m.grid[..., 0].expand(len(x), 1, -1, -1)], 1), "cat"),
    "floor division": (lambda m, x: torch.div(x, 0.7, rounding_mode="floor"), "div"),
    "row of a map": (lambda m, x: x - x[:, :, 3:4], "sub"),
    "one position": (lambda m, x: x - x[:, :, 3, 4][..., None, None], None),
    "linear attention": (_linear_attention, None),
    "values first": (_values_first, None),
    "qkv by unbind": (_qkv(lambda t: t.unbind(0)), None),
    "qkv by index": (_qkv(lambda t: (t[0], t[1], t[2])), None),
    "qkv by index, scaled": (_qkv(lambda t: (t[0], t[1], t[2]), 0.7), None),
    "windows": (
        lambda m, x: m.window(
            x.view(len(x), 8, 4, 4, 3, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 8, 4, 4)
        ).view(len(x), 4, 3, 8, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(x.shape), None,
    ),
    "depthwise by samples": (
        lambda m, x: F.conv2d(x.reshape(-1, 1, 16, 12), m.blur, padding=1).view(x.shape), None,
    ),
    "three-dimensional": (
        lambda m, x: F.conv3d(x[:, None], m.blur[None], padding=(0, 1, 1))[:, 0], None,
    ),
    "one-dimensional": (lambda m, x: m.line(x.flatten(2)).view_as(x), None),
    "of no grid at all": (lambda m, x: x + m.flat.weight.softmax(0)[:8, :1, None], None),
}  # fmt: skip


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat, self.mix = nn.Linear(8 * 192, 8), nn.Linear(192, 192)
        self.qkv, self.window = nn.Linear(8, 24), nn.Conv2d(8, 8, 3, padding=1)
        self.line = nn.Conv1d(8, 8, 3, padding=1)
        self.register_buffer("grid", torch.ones(1, 16, 12, 2))
        self.register_buffer("blur", torch.ones(1, 1, 3, 3))
        self.register_buffer("index", torch.tensor([2, 0, 5]).view(1, 3, 1, 1), persistent=False)

    def sampled(self, x):
        return F.grid_sample(x, self.grid.expand(len(x), -1, -1, -1), align_corners=False)


@pytest.mark.parametrize("name", CASES)
def test_results_are_right_and_the_fallback_is_named(name, batch):
    function, fallback = CASES[name]
    check_rule(
        lambda m, x: function(m.parts, x), batch, lambda: {"parts": Parts()}, local=False,
        sparse=False, fallbacks=[fallback] if fallback else None, tolerance=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("policy", [SHARED, Policy("balanced", crossover=1.0)], ids=str)
@pytest.mark.parametrize("name", ["qkv by unbind", "qkv by index", "qkv by index, scaled"])
def test_shared_regions_after_a_fallback_are_those_of_real_grids(name, policy):
    """Tokens with heads are no image: everything of the region is computed."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(8, 24), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return self.out(CASES[name][0](self, x) + x)

    module, x, mask = fill(Block()), noise(1, 8, 16, 12), spot(16, 12)
    net = retouch.compile(module, (x,), policy=policy)
    assert [str(g) for g in net.program.grids()] == ["16x12"]
    _, recording = net.record(x)
    updated = net.update(recording, Region.from_mask(mask), edit(x, mask))
    inside = net.active_mask(Region.from_mask(mask))[:, None].expand_as(updated)
    assert not inside.all()
    assert error(updated[inside], module(edit(x, mask))[inside]) < 1e-5


class Chain(nn.Module):
    """Sparse work, one operation without a rule, sparse work."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x):
        return self.last(F.silu(self.first(x)).cumsum(3) * 0.1)


def test_the_reason_is_shown_and_the_rest_stays_sparse(backend):
    x = noise(1, 3, 16, 16)
    net = retouch.compile(fill(Chain()), (x,), policy=SHARED, backend=backend)
    region = Region.from_mask(spot(16, 16))
    explained = net.explain(region)
    assert explained.fallbacks == ["cumsum: no rule for aten.cumsum.default"]
    assert "runs densely: cumsum: no rule for aten.cumsum.default" in str(explained)
    assert 0 < explained.macs_active < explained.macs_dense / 2
    lines = {line.name: line for line in explained.lines}
    assert lines["cumsum"].backend == "torch"
    assert lines["cumsum"].active == lines["cumsum"].rows


def test_everything_that_runs_densely_is_named():
    """Also what comes after a result that is no map (complex numbers here)."""

    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            return self.conv(torch.fft.ifft2(torch.fft.fft2(x)).real)

    x = noise(1, 3, 16, 16)
    net = retouch.compile(fill(Spectral()), (x,), policy=EXACT)
    explained = net.explain()
    named = [f.split(":")[0] for f in explained.fallbacks]
    assert "fft_fft2" in named
    lines = [line for line in explained.lines if "conv2d" in line.op or "gemm" in line.op]
    assert lines, "the convolution is missing from the report"
    assert all(line.macs_dense for line in lines)


def test_undo_of_dense_results(backend):
    x, mask = noise(1, 3, 16, 16), spot(16, 16)
    net = retouch.compile(fill(Chain()), (x,), policy=SHARED, backend=backend)
    y, recording = net.record(x)
    updated = net.update(recording, Region.from_mask(mask), edit(x, mask))
    recording.undo()
    empty = Region.from_mask(mask & False)
    assert torch.equal(net.update(recording, empty, x), y)
    recording.undo()
    assert torch.equal(net.update(recording, Region.from_mask(mask), edit(x, mask)), updated)
