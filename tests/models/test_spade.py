"""SPADE generators: published arithmetic, and checkpoints with every tensor accounted for."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from retouch.models import spade
from retouch.models.checkpoints import WeightFileError
from retouch.models.spade import from_checkpoint, semantics
from support import fill

TINY = {"full": lambda: spade.spade(4, 6), "compressed": lambda: spade.compressed((3, 2, 2, 3, 2, 3, 2, 4), 6)}
X = semantics(torch.arange(5).repeat_interleave(64 * 128 // 5 + 1)[: 64 * 128].view(64, 128), 5)


def made(kind, seed=0):
    """A tiny generator with random running statistics too."""
    module = fill(TINY[kind](), seed)
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(buffer.shape) + (0.5 if name.endswith("var") else -0.5))
    return module


def published(module):
    """Its tensors as a checkpoint has them: spectral norm on the convolutions of the blocks."""
    state = {}
    for name, tensor in module.state_dict().items():
        if ".conv_" in name and name.endswith("weight"):
            u = torch.nn.functional.normalize(torch.randn(tensor.shape[0]), dim=0)
            v = torch.nn.functional.normalize(torch.randn(tensor[0].numel()), dim=0)
            orig = tensor * 1.7
            state |= {name + "_orig": orig, name + "_u": u, name + "_v": v}
        else:
            state[name] = tensor
    return state


@pytest.mark.parametrize(
    ("make", "macs"),
    [(spade.spade, 281.3), (lambda: spade.spade(upsamplings=5), 292.7), (spade.compressed, 31.2)],
    ids=["more", "normal", "compressed"],
)
def test_published_arithmetic(make, macs):
    with torch.device("meta"):
        module, x = make().eval(), torch.empty(1, 36, 256, 512)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert module(x).shape == (1, 3, 256, 512)
    assert counter.get_total_flops() / 2e9 == pytest.approx(macs, rel=0.005)


def test_semantics():
    labels = torch.tensor([[0, 0, 2], [0, 1, 2]])
    found = semantics(labels, 3)
    assert found.shape == (1, 4, 2, 3)
    assert torch.equal(found[0, :3].argmax(0), labels)
    assert torch.equal(found[0, 3], torch.tensor([[0, 1, 1], [1, 1, 1.0]]))
    assert torch.equal(semantics(labels, 3, torch.zeros(2, 3))[0, 3], torch.zeros(2, 3))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", TINY)
def test_a_checkpoint_says_its_own_sizes(kind, suffix, tmp_path):
    module, file = made(kind), tmp_path / f"net_G.{suffix}"
    save_file(module.state_dict(), file) if suffix == "safetensors" else torch.save(module.state_dict(), file)
    with torch.no_grad():
        assert torch.equal(from_checkpoint(file)(X), module(X))


def test_spectral_norms_are_folded(tmp_path):
    module = made("full")
    state = published(module)
    torch.save(state, tmp_path / "w.pth")
    found = from_checkpoint(tmp_path / "w.pth").state_dict()
    for name in [n for n in state if n.endswith("_orig")]:
        base = name.removesuffix("_orig")
        layer = torch.nn.Conv2d(state[name].shape[1], state[name].shape[0], state[name].shape[2], bias=False)
        layer = torch.nn.utils.spectral_norm(layer).eval()
        layer.weight_orig.data, layer.weight_u, layer.weight_v = state[name], state[base + "_u"], state[base + "_v"]
        layer(torch.zeros(1, layer.in_channels, 3, 3))
        assert torch.allclose(found[base], layer.weight, rtol=1e-5)


def lose(state):
    del state["up_1.norm_s.mlp_beta.bias"]


def add(state):
    state["up_9.conv_0.weight"] = torch.zeros(1)


def misshape(state):
    state["conv_img.weight"] = torch.zeros(3, 4, 5, 5)


def spoil(state):
    state["up_3.conv_1.bias"][0] = float("nan")


def halve(state):
    state["up_0.conv_0.weight_orig"] = state.pop("up_0.conv_0.weight")


def behead(state):
    del state["head_0.conv_0.weight"]


def flatten(state):
    state["fc.weight"] = state["fc.weight"].flatten()


def empty(state):
    state["up_2.conv_1.weight"] = state["up_2.conv_1.weight"][:0]


def count(state):
    state["fc.bias"] = state["fc.bias"].long()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lose, r"missing: up_1\.norm_s\.mlp_beta\.bias"),
        (add, r"not part of the network: up_9\.conv_0\.weight"),
        (misshape, r"conv_img\.weight is \[3, 4, 5, 5\] and should be \[3, 4, 3, 3\]"),
        (spoil, r"not finite: up_3\.conv_1\.bias"),
        (halve, r"up_0\.conv_0\.weight has a spectral norm without"),
        (behead, r"no SPADE generator: 'head_0\.conv_0\.weight'"),
        (flatten, r"no SPADE generator: 'fc\.weight' is missing or misshapen"),
        (empty, r"no SPADE generator: 'up_2\.conv_1\.weight' is missing or misshapen"),
        (count, r"not floats: fc\.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_named(damage, reason, tmp_path):
    state = made("full").state_dict()
    damage(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightFileError, match=reason):
        from_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("vector", ["weight_u", "weight_v", "weight_orig"])
def test_spectral_norms_that_do_not_fit_are_named(vector, tmp_path):
    state = published(made("full"))
    state[f"up_0.conv_0.{vector}"] = torch.ones(3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightFileError, match=r"up_0\.conv_0\.weight is .* its spectral norm has vectors of"):
        from_checkpoint(tmp_path / "w.pth")


class Code:
    def __reduce__(self):
        return print, ("this ran",)


def test_code_is_not_run(tmp_path, capsys):
    torch.save({"fc.weight": Code()}, tmp_path / "w.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Code()))
    for name in ("w.pth", "plain.pth"):
        with pytest.raises(WeightFileError, match=r"more than tensors|cannot be read"):
            from_checkpoint(tmp_path / name)
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "content"), [("w.pth", b""), ("w.pth", b"no"), ("w.safetensors", b"no"), ("w", None)])
def test_files_that_are_none(name, content, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightFileError, match=r"cannot be read|more than tensors"):
        from_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [[torch.zeros(1)], {"model": {"fc.weight": torch.zeros(1)}}, {3: torch.zeros(1)}, {"a": torch.eye(2).to_sparse()}],
    ids=["list", "nested", "numbered", "sparse"],
)
def test_other_things_are_no_checkpoints(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightFileError, match=f"does not hold named tensors, but a {type(content).__name__}"):
        from_checkpoint(tmp_path / "w.pth")
