"""Packed weights in files: mapped by later starts, packed again for whatever else, bounded and cleared."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import retouch
from retouch.errors import FallbackWarning, OptionError
from retouch.kernels import backend, cpu
from retouch.runtime import packed_files
from retouch.runtime.packed_files import FILES
from support import fill, noise

X = noise(1, 3, 12, 12)


def module(seed=0):
    return fill(nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.SiLU(), nn.Conv2d(64, 64, 3, padding=1, groups=2),
        nn.ConvTranspose2d(64, 40, 2, stride=2), nn.Conv2d(40, 3, 1),
    ), seed)  # fmt: skip


def compiled(made=None, **options):
    return retouch.compile(made or module(), X, policy="exact", **{"backend": "cpu", "map_weights": True, **options})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path))
    return tmp_path / "packed"


@pytest.fixture
def packs(monkeypatch):
    """How often weights were packed."""
    kernels, count = backend("cpu"), []

    def counting(pack):
        return lambda *args: (count.append(1), pack(*args))[1]

    for name in ("own_pack", "own_pack_levels"):
        monkeypatch.setattr(kernels, name, counting(getattr(kernels, name)))
    return count


@pytest.mark.parametrize("arithmetic", ["float", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_second_start_packs_nothing_and_computes_the_same(folder, packs, monkeypatch, dtype, arithmetic):
    monkeypatch.setattr("retouch.passes.arithmetic.BUDGET", 1.0)
    wanted = retouch.compile(module().to(dtype), X.to(dtype), policy="exact", backend="cpu", arithmetic=arithmetic)
    y = wanted.record(X.to(dtype))[0]
    packs.clear()
    for number in (4, 0):
        net = retouch.compile(
            module().to(dtype), X.to(dtype), policy="exact", backend="cpu", arithmetic=arithmetic, map_weights=True
        )
        assert len(packs) == number
        assert torch.equal(net.record(X.to(dtype))[0], y)
        assert net.packed_bytes == wanted.packed_bytes
        packs.clear()
    assert len(list(folder.iterdir())) == 1


def test_other_weights_have_another_file(folder, packs):
    compiled()
    other = module(1)
    wanted = retouch.compile(other, X, policy="exact", backend="cpu").record(X)[0]
    packs.clear()
    assert torch.equal(compiled(other).record(X)[0], wanted)
    assert len(packs) == 4
    assert len(list(folder.iterdir())) == 2


def test_weights_that_change_are_mapped_anew(folder):
    made = module()
    net = compiled(made)
    made[0].weight.data.mul_(2)
    wanted = retouch.compile(made, X, policy="exact", backend="cpu").record(X)[0]
    assert torch.equal(net.record(X)[0], wanted)


@pytest.mark.parametrize("what", ["version", "packing"])
def test_files_of_another_version_or_processor_are_not_read(folder, packs, what, monkeypatch):
    compiled()
    packs.clear()
    if what == "version":
        monkeypatch.setattr(packed_files, "version", lambda name: "9.9")
    else:
        monkeypatch.setattr(type(backend("cpu")), "packing", "another instruction set")
    compiled()
    assert len(packs) == 4


@pytest.mark.skipif(len(cpu.available_isas()) == 1, reason="one instruction set only")
def test_each_instruction_set_has_a_file(folder):
    first = compiled().record(X)[0]
    before = cpu.isa()
    cpu.set_isa(cpu.available_isas()[-1])
    try:
        assert torch.allclose(compiled().record(X)[0], first, atol=1e-4)
    finally:
        cpu.set_isa(before)
    assert len(list(folder.iterdir())) == 2


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-64])


def altered(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-64:] = bytes(64)
    file.write_bytes(content)


def of_other_weights(file: Path) -> None:
    compiled(module(1))
    other = next(each for each in file.parent.iterdir() if each != file)
    other.replace(file)


@pytest.mark.parametrize("damage", [truncated, altered, of_other_weights])
def test_damaged_files_are_packed_again(folder, packs, damage):
    y = compiled().record(X)[0]
    file = next(folder.iterdir())
    damage(file)
    packs.clear()
    net = compiled()
    assert len(packs) == 4
    assert torch.equal(net.record(X)[0], y)
    packs.clear()
    compiled()
    assert not packs


def test_the_oldest_files_make_room(folder, monkeypatch):
    size = compiled().packed_bytes
    monkeypatch.setattr(packed_files, "FILES", replace(FILES, limit=int(2.5 * size)))
    old = next(folder.iterdir())
    for seed in (1, 2):
        compiled(module(seed))
    assert len(list(folder.iterdir())) == 2
    assert not old.exists()


def test_no_room_at_all_is_told(folder, monkeypatch):
    monkeypatch.setattr(packed_files, "FILES", replace(FILES, limit=1000))
    with pytest.warns(FallbackWarning, match="packed weights stay in the memory of this process"):
        net = compiled()
    assert torch.equal(net.record(X)[0], retouch.compile(module(), X, policy="exact", backend="cpu").record(X)[0])


def test_other_backends_refuse():
    with pytest.raises(OptionError, match="the reference backend does not keep packed weights in files"):
        compiled(backend="reference")


def test_clearing_leaves_what_is_mapped(folder):
    net = compiled()
    y = net.record(X)[0]
    assert FILES.clear() > net.packed_bytes
    assert not list(folder.iterdir())
    assert torch.equal(net.record(X)[0], y)


def test_bad_memory():
    with pytest.raises(ValueError, match=r"packed_from: 64 bytes, these weights take"):
        cpu.packed_from(torch.zeros(64, dtype=torch.uint8), (4, 1, 8), 1, "float32")
    memory = torch.zeros(4096 + 64, dtype=torch.uint8)
    packed = cpu.pack(torch.randn(16, 1, 8))
    start = 1 + -memory.data_ptr() % 64
    with pytest.raises(ValueError, match="multiple of 64"):
        cpu.packed_from(memory[start : start + packed.nbytes], (16, 1, 8), 1, "float32")
    with pytest.raises(TypeError, match="uint8"):
        cpu.packed_from(torch.zeros(64), (4, 1, 8), 1, "float32")
    with pytest.raises(TypeError, match="int16"):
        cpu.packed_from(memory, (4, 1, 8), 1, "int16")


def test_the_command(tmp_path):
    run = [sys.executable, "-m", "retouch.cli", "cache"]
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / f"a{FILES.suffix}").write_bytes(bytes(2_000_000))
    found = [
        subprocess.run([*run, *more], env={"RETOUCH_CACHE": str(tmp_path)}, capture_output=True, text=True, check=True)
        for more in ([], ["--clear"], [])
    ]
    assert [each.stdout.split(" ", 1)[0] for each in found][1] == "removed"
    assert "1 files, 2.0 MB" in found[0].stdout
    assert "0 files, 0.0 MB" in found[2].stdout
