"""The benchmark networks: each builds, runs and really lets data flow."""

import subprocess
import sys

import pytest
import torch

from retouch import models
from retouch.models.registry import on_grid
from retouch.models.weights import fill, without_init

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def run(module, inputs):
    with torch.no_grad():
        return models.tensor_of(module(*inputs.args, **inputs.kwargs))


@pytest.mark.parametrize("name", models.names())
def test_tiny_network_reacts_to_an_edit(name):
    network = models.get(name)
    module, inputs = network.build(tiny=True), network.inputs(tiny=True)
    height, width = network.image_size(tiny=True)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[height // 2, width // 2] = True
    before = run(module, inputs)
    after = run(module, network.edited(inputs, mask))
    assert not module.training
    assert before.dim() == 4
    assert before.isfinite().all()
    assert 0.05 < before.std() < 20
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", models.names())
def test_no_weight_is_zero_and_a_seed_fixes_them(name):
    one, other = (models.get(name).build(tiny=True) for _ in range(2))
    for (key, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert a.any(), f"{key} is zero"
        assert torch.equal(a, b)
    changed = models.get(name).build(tiny=True, seed=1)
    assert not torch.equal(next(one.parameters()), next(changed.parameters()))


@pytest.mark.parametrize("name", models.names())
def test_inputs_are_the_same_every_time_and_in_the_dtype(name):
    one, other = (models.get(name).inputs(tiny=True, dtype=torch.bfloat16) for _ in range(2))
    assert one.args[0].dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(one.args, other.args, strict=True))


def test_edit_changes_exactly_the_covered_cells():
    network = models.get("sd15-unet")
    inputs = network.inputs(tiny=True)
    mask = torch.zeros(128, 128, dtype=torch.bool)
    mask[7:9, 40] = True
    changed = (network.edited(inputs, mask).args[0] != inputs.args[0]).any(1)
    assert changed.nonzero()[:, 1:].tolist() == [[0, 5], [1, 5]] * 2


def test_on_grid_reduces_by_max_and_enlarges_by_repetition():
    mask = torch.tensor([[True, False], [False, False]])
    assert on_grid(mask, 1, 2).tolist() == [[True, False]]
    assert on_grid(mask, 2, 4).tolist() == [[True, True, False, False], [False] * 4]


def test_on_grid_names_both_sizes():
    with pytest.raises(ValueError, match="5x5 pixels does not fit a grid of 2x2"):
        on_grid(torch.zeros(5, 5, dtype=torch.bool), 2, 2)


def test_unknown_model_lists_the_choices():
    with pytest.raises(ValueError, match=r"unknown model 'nope'.*ddpm-256.*taesd"):
        models.get("nope")


def test_tensor_of_refuses_what_holds_no_tensor():
    with pytest.raises(TypeError, match="expected a tensor"):
        models.tensor_of(3)


def test_fill_covers_large_weights_with_distinct_rows():
    with without_init():
        layer = torch.nn.Linear(1000, 5000)
    fill(layer, seed=0)
    weight = layer.weight.detach()
    assert weight.std() * 1000**0.5 == pytest.approx(1, rel=0.01)
    assert len(weight.unique(dim=0)) == 5000
    assert abs(layer.bias.mean()) < 0.01


def test_without_init_ends_with_its_block():
    with without_init():
        pass
    assert torch.nn.Linear(4, 4).weight.abs().max() <= 0.5


def test_importing_models_leaves_diffusers_alone():
    code = "import retouch.models, sys; print('diffusers' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'retouch\[diffusers\]'"):
        models.get("ddpm-256").build(tiny=True)


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet-generator", 11.4), ("ddpm-256", 113.7), ("sd-vae-encoder", 34.2)]
)
def test_full_size_has_the_published_number_of_weights(name, millions):
    with torch.device("meta"):
        module = models.get(name).make_module(False)
    count = sum(weight.numel() for weight in module.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05)
