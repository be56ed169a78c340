"""Updates whose rows read a text of their own in each area."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import retouch
from kernels import interpreter
from retouch import Region, kernels
from retouch.ir.geometry import Grid
from retouch.ops.dense import Dense
from retouch.passes import AreaError
from retouch.plan.areas import Areas
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store
from support import BACKENDS, EXACT, SHARED, edit, error, fill, noise, same, state

SIZE = 16


class Reader(nn.Module):
    """Convolution, norm, attention over a text at two grids, self-attention, convolution."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.norm, self.down = nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 2, stride=2)
        self.words = nn.Linear(6, 8)
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def read(self, x, texts, labels=None):
        """Rows attend to the text of their label; without labels to the one there is."""
        words = [self.words(text) for text in texts]
        k, v = (torch.cat([layer(part) for part in words], 1) for layer in (self.k, self.v))
        mask = None
        if labels is not None:
            owner = torch.arange(len(texts)).repeat_interleave(texts[0].shape[1])
            mask = labels.flatten()[:, None] == owner
        found = F.scaled_dot_product_attention(self.q(x.flatten(2).mT), k, v, mask)
        return x + found.mT.view_as(x)

    def forward(self, x, text):
        return self.dense(x, [text])

    def dense(self, x, texts, areas=None):
        def labels(x):
            return None if areas is None else torch.from_numpy(areas.labels(Region.from_mask(x[0, 0] > 0).grid))

        x = self.read(F.silu(self.norm(self.first(x))), texts, labels(x))
        low = self.down(x)
        low = self.read(low, texts, labels(low))
        rows = low.flatten(2).mT
        low = low + F.scaled_dot_product_attention(rows, rows, rows).mT.view_as(low)
        return self.last(x + F.interpolate(low, scale_factor=2.0))


X, TEXT = noise(2, 3, SIZE, SIZE), noise(2, 5, 6, seed=1)
OTHERS = noise(2, 5, 6, seed=2), noise(2, 5, 6, seed=3)


def box(top, left, height, width):
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


ONE, TWO = Region.from_mask(box(2, 2, 5, 6)), Region.from_mask(box(4, 5, 8, 5))
AREAS = Areas("text", (ONE, TWO), OTHERS)


@cache
def compiled(backend="cpu", policy=SHARED):
    return retouch.compile(fill(Reader()), (X, TEXT), policy=policy, backend=backend)


def dense(x, areas):
    with torch.no_grad():
        return compiled().module.dense(x, [TEXT, *areas.values], areas)


@pytest.mark.parametrize("backend", BACKENDS)
def test_exact_updates_equal_the_dense_module(backend):
    net = compiled(backend, EXACT)
    _, recording = net.record(X, TEXT)
    before = state(recording)
    mask = box(3, 3, 4, 4)
    edited = edit(X, mask)
    found = net.update_areas(recording, Region.from_mask(mask), AREAS, edited, TEXT)
    assert error(found, dense(edited, AREAS)) < 1e-5
    assert error(found, net.record(edited, TEXT)[0]) > 1e-2
    recording.undo()
    assert same(before, state(recording))
    assert len(recording.values) == len(net.record(X, TEXT)[1].values)


@pytest.mark.parametrize("backend", BACKENDS)
def test_everything_active_equals_the_dense_module(backend):
    net = compiled(backend)
    _, recording = net.record(X, TEXT)
    everything = Region.from_mask(torch.ones(SIZE, SIZE, dtype=torch.bool))
    assert error(net.update_areas(recording, everything, AREAS, X, TEXT), dense(X, AREAS)) < 1e-5


@given(st.integers(0, 11), st.integers(0, 11), st.integers(1, 5), st.integers(1, 5))
def test_areas_with_the_text_of_all_others_change_nothing(top, left, height, width):
    net, mask = compiled(), box(3, 3, 4, 4)
    region, edited = Region.from_mask(mask), edit(X, mask)
    alike = Areas("text", (Region.from_mask(box(top, left, height, width)), TWO), (TEXT, TEXT))
    results = []
    for areas in (None, alike):
        _, recording = net.record(X, TEXT)
        results.append((net.update_areas(recording, region, areas, edited, TEXT), state(recording)))
    assert torch.equal(results[0][0], results[1][0])
    assert same(results[0][1], results[1][1])


class Scaled(Reader):
    """Reads the text as a whole, too."""

    def dense(self, x, texts, areas=None):
        return super().dense(x * (1 + texts[0].mean()), texts, areas)


def test_what_is_made_of_a_text_as_a_whole_is_made_of_that_of_all_other_rows():
    net = retouch.compile(fill(Scaled()), (X, TEXT), policy=EXACT, backend="cpu")
    found = net.update_areas(net.record(X, TEXT)[1], TWO, AREAS, X, TEXT)
    with torch.no_grad():
        assert error(found, net.module.dense(X, [TEXT, *OTHERS], AREAS)) < 1e-5


def test_only_the_rows_of_an_area_follow_its_text_and_the_later_area_wins():
    net = compiled()
    whole = Region.from_mask(torch.ones(SIZE, SIZE, dtype=torch.bool))
    last = OTHERS[1:]
    cases = None, AREAS, Areas("text", (TWO,), last), Areas("text", (ONE, whole), OTHERS), Areas("text", (whole,), last)
    update = [net.update_areas(net.record(X, TEXT)[1], ONE, areas, X, TEXT) for areas in cases]
    assert error(update[0], update[1]) > 1e-2
    assert error(update[1], update[2]) > 1e-2
    assert torch.equal(update[3], update[4])
    outside = ~net.active_mask(ONE)[:, None].expand_as(update[0])
    assert torch.equal(update[0][outside], update[1][outside])


def test_snapshots_take_areas_again_and_again():
    net, store = compiled(), Store()
    first = Snapshot.of(net.record(X, TEXT)[1], store)
    expected = net.update_areas(net.record(X, TEXT)[1], TWO, AREAS, X, TEXT)
    swapped = Areas("text", AREAS.regions, OTHERS[::-1])
    for areas, like in ((AREAS, True), (swapped, False), (AREAS, True)):
        recording = first.recording()
        assert torch.equal(net.update_areas(recording, TWO, areas, X, TEXT), expected) == like
        assert set(recording.snapshot.dense) == set(first.dense)
    plain = net.update(first.recording(), TWO, X, TEXT)
    assert torch.equal(plain, net.update(net.record(X, TEXT)[1], TWO, X, TEXT))


def test_what_is_made_of_texts_is_computed_once(monkeypatch):
    net, calls = compiled(), []
    snapshot = Snapshot.of(net.record(X, TEXT)[1], Store())
    net.update_areas(snapshot.recording(), TWO, AREAS, X, TEXT)
    run = Dense.run
    monkeypatch.setattr(Dense, "run", lambda op, tensors: (calls.append(op), run(op, tensors))[1])
    net.update_areas(snapshot.recording(), ONE, Areas("text", (TWO, ONE), tuple(t.clone() for t in OTHERS)), X, TEXT)
    assert not calls
    net.update_areas(snapshot.recording(), ONE, Areas("text", (TWO, ONE), tuple(t + 1 for t in OTHERS)), X, TEXT)
    assert calls


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
def test_regions_and_areas_that_move_share_graphs(monkeypatch):
    interpreter.correct()
    monkeypatch.setitem(kernels.registry._made, ("triton", interpreter.CPU), interpreter.Graphs())
    net = retouch.compile(fill(Reader()), (X, TEXT), policy=SHARED, backend="triton")
    snapshot = Snapshot.of(net.record(X, TEXT)[1], Store())
    for top in (2, 6, 4):
        region = Region.from_mask(box(top, 4, 4, 6))
        areas = Areas("text", tuple(Region.from_mask(box(top, left, 4, 4)) for left in (2, 6)), OTHERS)
        found = net.update_areas(snapshot.recording(), region, areas, X, TEXT)
        assert torch.equal(found, net.update_areas(net.record(X, TEXT)[1], region, areas, X, TEXT))
    assert len(net.workspace.templates) == 1


def test_an_update_that_fails_leaves_nothing_behind(monkeypatch):
    net = compiled()
    _, recording = net.record(X, TEXT)
    before, held = state(recording), set(recording.values)
    with monkeypatch.context() as patch:
        patch.setattr(net, "_result", lambda recording: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            net.update_areas(recording, TWO, AREAS, X, TEXT)
    assert same(before, state(recording))
    assert set(recording.values) == held


class Words(Reader):
    """Reads what are words of texts, of which each is two tensors."""

    def forward(self, x, text, words):
        return self.dense(x, [(text, words)])

    def read(self, x, texts, labels=None):
        read = [self.words(text) for text, _ in texts]
        k, v = (torch.cat([layer(part) for part in read], 1) for layer in (self.k, self.v))
        mask = torch.cat([words for _, words in texts], 1)[:, None]
        if labels is not None:
            mask = mask & (labels.flatten()[:, None] == torch.arange(len(texts)).repeat_interleave(TEXT.shape[1]))
        return x + F.scaled_dot_product_attention(self.q(x.flatten(2).mT), k, v, mask).mT.view_as(x)


WORDS = torch.arange(5) < torch.tensor([[3], [4]])


def test_areas_have_masks_of_their_own():
    net = retouch.compile(fill(Words()), (X, TEXT, WORDS), policy=EXACT, backend="cpu")
    assert net.explain().fallbacks == []
    masks = WORDS.flip(0), WORDS.flip(1)
    areas = Areas("text", AREAS.regions, OTHERS, {"words": masks})
    found = net.update_areas(net.record(X, TEXT, WORDS)[1], TWO, areas, X, TEXT, WORDS)
    with torch.no_grad():
        expected = net.module.dense(X, list(zip((TEXT, *OTHERS), (WORDS, *masks), strict=True)), areas)
    assert error(found, expected) < 1e-5
    with pytest.raises(AreaError, match="mask that is not computed of text"):
        net.update_areas(net.record(X, TEXT, WORDS)[1], TWO, AREAS, X, TEXT, WORDS)


# What is refused


class Otherwise(nn.Module):
    def forward(self, x, text):
        return x * text.mean()


class Mixed(Reader):
    def forward(self, x, text):
        return super().forward(x, text + x.amax())


@pytest.mark.parametrize(
    ("module", "reason"), [(Otherwise, "nothing attends to text"), (Mixed, "not computed of text alone")]
)
def test_what_no_area_can_have_of_its_own_is_refused(module, reason):
    net = retouch.compile(fill(module()), (X, TEXT), policy=SHARED, backend="cpu")
    _, recording = net.record(X, TEXT)
    with pytest.raises(AreaError, match=reason):
        net.update_areas(recording, TWO, AREAS, X, TEXT)
    nothing = Region.from_mask(torch.zeros(SIZE, SIZE, dtype=torch.bool))
    assert torch.equal(net.update(recording, nothing, X, TEXT), net.record(X, TEXT)[0])


@pytest.mark.parametrize("name", ["x", "words"])
def test_an_argument_that_is_not_there_is_refused(name):
    net = compiled()
    with pytest.raises(AreaError, match=f"reads no argument '{name}'"):
        net.update_areas(net.record(X, TEXT)[1], TWO, Areas(name, (TWO,), (TEXT,)), X, TEXT)


def test_the_later_area_wins_on_every_grid():
    fine = AREAS.labels(ONE.grid)
    assert (fine == 2).sum() == 40
    assert (fine == 1).sum() == 30 - 9
    assert AREAS.labels(Grid(4, 4)).tolist() == [[1, 1, 0, 0], [1, 2, 2, 0], [0, 2, 2, 0], [0, 0, 0, 0]]
