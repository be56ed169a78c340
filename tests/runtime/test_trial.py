"""What int8 costs each product: predicted, kept, and what is made of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import retouch
from retouch import Region, kernels
from retouch.errors import FallbackWarning
from retouch.frontend.capture import capture
from retouch.frontend.lowering import lower
from retouch.ops.copy import spread, spread_values
from retouch.ops.gemm import Gemm
from retouch.ops.int8_gemm import Levels
from retouch.passes import fuse
from retouch.runtime import trial
from retouch.runtime.blocks import Block, read
from retouch.runtime.trial import int8_errors
from support import EXACT, error, fill, noise


class Net(nn.Module):
    """Two branches of two layers each; with `spike`, one number of each row that `spiked` reads is far larger."""

    def __init__(self, spike: float = 1.0, weak: float = 0.1) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 48, 3, padding=1)
        self.wide = nn.Conv2d(48, 40, 3, padding=1)
        self.spiked = nn.Conv2d(40, 40, 1)
        self.up = nn.ConvTranspose2d(40, 40, 2, stride=2)
        self.line = nn.Linear(40, 40)
        self.last = nn.Conv2d(40, 3, 3, padding=1)
        fill(self)
        self.wide.weight[0] *= spike
        self.wide.bias[0] *= spike
        self.spiked.weight[:, 0] /= spike
        self.up.weight *= weak

    def forward(self, x):
        y = F.relu(self.wide(F.silu(self.first(x))))
        y = self.spiked(y) + F.avg_pool2d(self.up(y), 2)
        return self.last(self.line(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


INNER = "wide", "spiked", "up", "line"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path))
    return tmp_path / "trials"


def tried(module, x):
    """The errors of the inner products by name, and that of rounding."""
    program = fuse(lower(capture(module, (x,), {})))
    products = [op for op in program.ops if isinstance(op, Gemm)]
    found = int8_errors(program, products, module, ((), {"x": x}), kernels.backend("cpu", torch.device("cpu")))
    names = {op.out: program.constants[op.weight.value].removesuffix(".weight") for op in products}
    return {names[value]: e for value, e in found.errors.items() if names[value] in INNER}, found.rounding


def errors(module, x):
    """By name, of the inner products."""
    return tried(module, x)[0]


def in_int8(module, name, x):
    """What the module returns with one layer of it in int8."""
    layer = getattr(module, name)
    channels, inputs = (-1 if name == "line" else 1), (0 if name == "up" else 1)

    def run(_, given, result):
        last = given[0].movedim(channels, -1)
        rows = spread_values(spread(last.reshape(-1, last.shape[-1]))).reshape(last.shape).movedim(-1, channels)
        weight = layer.weight.movedim(inputs, -1)
        levels = Levels.of(weight.reshape(1, -1, weight.shape[-1]), 1)
        rounded = (levels.weight * levels.scales[:, :, None]).reshape(weight.shape).movedim(-1, inputs)
        with torch.no_grad():
            kept, layer.weight.data = layer.weight.data, rounded
            result = layer.forward(rows)
            layer.weight.data = kept
        return result

    handle = layer.register_forward_hook(run)
    found = module(x)
    handle.remove()
    return found


def test_predictions_are_what_each_layer_alone_does_to_the_output(folder):
    module, x = Net(), noise(2, 3, 24, 20)
    found, exact = errors(module, x), module(x)
    assert set(found) == set(INNER)
    for name, predicted in found.items():
        assert predicted == pytest.approx(error(in_int8(module, name, x), exact), rel=0.35), name
    assert found["up"] < 0.3 * found["spiked"]  # though its own result is no nearer


def test_rounding_moves_the_output_as_far_as_is_said(folder):
    narrow, x = Net(weak=1.0).bfloat16(), noise(2, 3, 24, 20).bfloat16()
    _, rounding = tried(narrow, x)
    assert tried(narrow, x)[1] == rounding  # read from the file
    got = narrow(x).float()
    wide = narrow.float()
    assert rounding == pytest.approx(error(got, wide(x.float())), rel=0.35)
    assert tried(wide, x.float())[1] < 1e-6


def test_gradients_are_taken_whatever_the_caller_forbids_and_none_are_left(folder):
    module, x = Net(), noise(1, 3, 24, 20)
    module.requires_grad_(True)
    wanted = errors(module, x)
    with torch.inference_mode():
        found, _ = trial._measured(module, (x.clone(),), {}, {f"{n}.weight": getattr(module, n).weight for n in INNER})
    assert {name.removesuffix(".weight"): e for name, e in found.items()} == pytest.approx(wanted)
    assert all(parameter.grad is None for parameter in module.parameters())


class Masked(Net):
    """Attention of the rows of a map to themselves, but for those that a mask leaves out, between linear layers."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    def forward(self, x):
        y = self.line(self.wide(self.first(x)).flatten(2).transpose(1, 2))
        mask = torch.zeros(y.shape[1], dtype=y.dtype)
        mask[::3] = self.least
        y = (y @ y.transpose(1, 2) / 40 + mask).softmax(-1) @ y
        return self.last(y.transpose(1, 2).unflatten(2, x.shape[2:]))


@pytest.mark.parametrize("least", [-float("inf"), torch.finfo(torch.bfloat16).min])
def test_rounding_of_masks_counts_for_nothing(folder, least):
    x = noise(1, 3, 6, 5).bfloat16()
    found, rounding = tried(Masked(least).bfloat16(), x)
    assert 0 < rounding < 0.05
    assert found["line"] > 0


def test_rounding_of_linear_layers_of_many_rows_counts(folder):
    narrow = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    narrow = fill(narrow).bfloat16()
    x = noise(2, 50, 64).bfloat16()
    _, rounding = trial._measured(narrow, (x,), {}, {})
    assert rounding == pytest.approx(2**0.5 * trial.ROUNDED * torch.finfo(torch.bfloat16).eps, rel=0.35)


class InPlace(Net):
    def forward(self, x):
        y = self.wide(self.first(x))
        z = F.silu(y)
        y.add_(1)
        return self.last(self.spiked(z) + y)


class Without(Net):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


def test_without_a_backward_pass_layers_stay_as_they_are_and_that_is_said(folder):
    x = noise(1, 3, 24, 20)
    with pytest.warns(FallbackWarning, match="no layer of InPlace is in int8.*modified by an inplace operation"):
        assert errors(InPlace(), x) == {}
    net = retouch.compile(Without(), x, policy=EXACT, backend="cpu", arithmetic="int8")
    assert "what int8 does there is not known" in str(net.explain())
    assert net.explain().in_int8 == 0


def test_a_layer_that_moves_the_output_too_much_stays_as_it_is(folder):
    module, x = Net(200.0), noise(1, 3, 24, 20)
    net = retouch.compile(module, x, policy=EXACT, backend="cpu", arithmetic="int8")
    report = net.explain(Region.from_mask(torch.ones(24, 20, dtype=torch.bool)))
    kinds = {net.program.constants[op.weight.value]: op for op in net.program.ops if isinstance(op, Gemm)}
    assert kinds["spiked.weight"].kernel == "gemm"
    told = net.products.left[kinds["spiked.weight"].out]
    assert "in int8 it moves the output by" in told
    assert f"{kinds['spiked.weight'].out.name}: {told}" in str(report)
    assert 0 <= report.in_int8 < 1
    assert error(net.record(x)[0], module(x)) < 0.005


def test_an_input_that_tells_nothing_is_replaced_by_noise(folder):
    module = Net(200.0)
    programs = [
        str(retouch.compile(module, x, policy=EXACT, backend="cpu", arithmetic="int8").program)
        for x in (torch.zeros(1, 3, 24, 20), torch.ones(1, 3, 24, 20))
    ]
    assert programs[0] == programs[1]


def test_what_was_found_is_kept(folder, monkeypatch):
    module, x, runs = Net(), noise(1, 3, 24, 20), []
    measure = trial._measured
    monkeypatch.setattr(trial, "_measured", lambda *args: runs.append(0) or measure(*args))
    first = errors(module, x)
    assert errors(module, x) == first
    assert len(runs) == 1
    errors(module, noise(1, 3, 24, 20, seed=1))
    module.wide.weight.data[0, 0] += 1
    changed = errors(module, x)
    assert changed != first
    assert len(runs) == 3
    for file in folder.iterdir():  # as versions without the error of rounding wrote where nothing is known
        trial.FILES.write(file, Block.of({"errors": torch.zeros(0)}, {**read(file).notes, "names": []}))
    assert errors(module, x) == changed
    assert len(runs) == 4
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-3])
    assert errors(module, x) == changed
    assert len(runs) == 5
