"""Lowered programs in files: read by later starts, captured again for whatever else, bounded and cleared."""

import json
import logging
from dataclasses import replace

import diffusers
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import networks
import retouch
from retouch import Region, incremental, models
from retouch.frontend.capture import capture
from retouch.frontend.lowering import context
from retouch.frontend.lowering.context import rule
from retouch.models import unet
from retouch.runtime import program_files
from retouch.runtime.program_files import FILES
from support import fill, noise, spot

X = noise(1, 3, 12, 12)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.table = nn.Conv2d(3, 8, 3, padding=1), noise(8, 1, 1)
        self.register_buffer("shift", noise(8, 1, 1), persistent=False)
        self.scales = [noise(8, 1, 1)]

    def forward(self, x):
        return (self.body(x) + self.table + self.shift) * self.scales[0] * torch.tensor([1.0, 0.5])[:, None, None].sum()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path))
    return tmp_path / "programs"


@pytest.fixture
def captures(monkeypatch):
    """How often a module was captured, each for itself: a capture holds tensors of its module."""
    count = []
    monkeypatch.setattr(incremental, "capture", lambda *args: (count.append(1), capture(*args))[1])
    return count


def compiled(made=None, **options):
    return retouch.compile(made or fill(Net()), X, **{"policy": "exact", "backend": "cpu", **options})


def bits(*outputs):
    return [leaf.clone() for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def control_net():
    return fill(diffusers.ControlNetModel.from_unet(unet.sd15(True), "rgb", (8, 16), load_weights_from_unet=False))


def of_control_net():
    latent, text = noise(1, 4, 16, 16), noise(1, 5, control_net().config.cross_attention_dim)
    return (latent, torch.tensor([5])), {"encoder_hidden_states": text, "controlnet_cond": noise(1, 3, 32, 32)}


@pytest.mark.parametrize(
    "name", ["sd15-unet", "sd-vae-decoder", "gaugan", "dit", "taesd", "flux2-klein-block", "z-image-block", "control"]
)
def test_a_second_start_captures_nothing_and_computes_the_same_bits(name, captures):
    if name == "control":
        build, (args, kwargs) = control_net, of_control_net()
    else:
        made = networks.case(name)
        build, args, kwargs = (lambda: models.get(name).build(True)), made.args, made.kwargs
    other = (args[0].clone(), *args[1:])
    other[0][..., 3:7, 4:8] += 1
    region = Region.from_mask(spot(*other[0].shape[2:], 3, 4, 4))
    found, programs = [], []
    for _ in range(2):
        net = retouch.compile(build(), args, kwargs, policy="fast", backend="cpu")
        y, recording = net.record(*args, **kwargs)
        found.append(bits(y, net.update(recording, region, *other, **kwargs)))
        programs.append(str(net.program))
    assert len(captures) == 1
    assert programs[0] == programs[1]
    assert len(found[0]) == len(found[1]) > 0
    assert all(torch.equal(*each) for each in zip(*found, strict=True))


@pytest.mark.parametrize(("first", "second"), [
    ({"backend": "cpu"}, {"backend": "triton"}),
])  # fmt: skip
def test_what_is_asked_for_has_a_file_of_its_own(captures, folder, first, second):
    if "triton" in second.values():
        pytest.importorskip("triton")
    compiled(**first)
    compiled(**second)
    compiled(**first)
    assert len(captures) == len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("what", ["version", "_code"])
def test_other_versions_have_other_files(captures, monkeypatch, what):
    compiled()
    monkeypatch.setattr(program_files, what, lambda *_: "another")
    compiled()
    assert len(captures) == 2


def test_other_layouts_have_other_files(captures):
    module, x = fill(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))), noise(1, 24, 4)
    for size in ((4, 6), (6, 4), (4, 6)):
        net = retouch.compile(module, x, layouts={"input": retouch.tokens(*size)})
        assert (net.program.inputs[0].grid.height, net.program.inputs[0].grid.width) == size
    assert len(captures) == 2


def test_tensors_of_the_module_stay_its_own(captures):
    compiled()
    module = fill(Net())
    net = compiled(module)
    assert len(captures) == 1
    for tensor in (module.table, module.shift, module.scales[0]):
        tensor.mul_(2)
        assert torch.allclose(net.record(X)[0], module(X), atol=1e-5)
    state = {name: tensor * 2 for name, tensor in module.state_dict().items()}
    module.load_state_dict(state)
    assert torch.allclose(net.record(X)[0], module(X), atol=1e-5)


def test_rules_from_elsewhere_are_asked_every_time(captures, folder, monkeypatch):
    monkeypatch.setattr(context, "RULES", dict(context.RULES))
    given = rule("thing.default")(lambda context, node: None)
    given.__module__ = None  # as of code that is run from a text
    compiled()
    assert len(captures) == 1
    assert not folder.exists()


def test_what_cannot_be_followed_is_captured_every_time(captures, folder):
    class Asking(Net):
        def forward(self, x):
            self.asked = x.shape
            return super().forward(x)

    for _ in range(2):
        net = compiled(fill(Asking()))
        assert torch.allclose(net.record(X)[0], net.module(X), atol=1e-5)
    assert len(captures) == 2
    assert not folder.exists()


def truncated(file):
    file.write_bytes(file.read_bytes()[:-8])


def altered(file):
    content = bytearray(file.read_bytes())
    content[-4:] = bytes(4)
    file.write_bytes(content)


def other_words(file):
    file.write_bytes(file.read_bytes().replace(b"aten.", b"atem."))


def of_another_module(file):
    compiled(fill(nn.Sequential(Net(), nn.ReLU())))
    next(each for each in file.parent.iterdir() if each != file).replace(file)


def no_file_at_all(file):
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncated, altered, other_words, of_another_module, no_file_at_all])
def test_damaged_files_are_told_and_made_again(folder, captures, caplog, damage):
    y = compiled().record(X)[0]
    (file,) = folder.iterdir()
    damage(file)
    captures.clear()
    with caplog.at_level(logging.WARNING, "retouch"):
        for _ in range(2):
            assert torch.equal(compiled().record(X)[0], y)
    assert len(captures) == 1
    (told,) = [record.message for record in caplog.records if record.name == "retouch"]
    assert "cannot be used and is made again" in told


def test_large_files_are_neither_read_nor_written(folder, captures, monkeypatch):
    compiled()
    monkeypatch.setattr(program_files, "LARGEST", 100)
    compiled()
    assert len(captures) == 2
    assert not list(folder.iterdir())


def test_the_oldest_files_make_room(folder, monkeypatch):
    compiled()
    (old,) = folder.iterdir()
    monkeypatch.setattr(program_files, "FILES", replace(FILES, limit=int(2.5 * old.stat().st_size)))
    for extra in (nn.ReLU(), nn.SiLU()):
        compiled(fill(nn.Sequential(Net(), extra)))
    assert len(list(folder.iterdir())) == 2
    assert not old.exists()


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path, monkeypatch, captures):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path / "file"))
    net = compiled()
    assert torch.allclose(net.record(X)[0], net.module(X), atol=1e-5)
    assert len(captures) == 1


def test_files_hold_no_weights_of_the_module(folder):
    compiled(fill(nn.Sequential(nn.Conv2d(3, 256, 3), nn.Conv2d(256, 256, 3))))
    (file,) = folder.iterdir()
    assert file.stat().st_size < 20_000
    header = file.read_bytes()
    assert json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
