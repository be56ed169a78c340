"""The store: blocks in memory and in files, their format, budgets, full disks, broken files."""

import errno
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from retouch import StoreError
from retouch.runtime.blocks import ALIGNMENT, UNNAMED, Block, Layout, Spec, header, read, spill_folder, write
from retouch.runtime.store import DTYPES, EDIT_SHARE, Memory, Store, free_memory

TYPES = (
    torch.complex64,
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
SPECS = st.lists(st.tuples(SHAPES, st.sampled_from(TYPES)), max_size=6).map(
    lambda made: [Spec(f"rows/{i}", *parts) for i, parts in enumerate(made)]
)


@pytest.fixture(autouse=True)
def young():
    """Collections look at what a test makes, not at all that the process holds."""
    gc.freeze()
    yield
    gc.unfreeze()


def content(spec, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 100, spec.shape, generator=generator).to(spec.dtype)


def filled(block, specs):
    for i, spec in enumerate(specs):
        block.tensors[spec.name].copy_(content(spec, i))
    return block


def holds(block, specs):
    return set(block.tensors) == {s.name for s in specs} and all(
        block.tensors[s.name].dtype == s.dtype and torch.equal(block.tensors[s.name], content(s, i))
        for i, s in enumerate(specs)
    )


def some_specs():
    return [Spec("index/0", (7,), torch.int32), Spec("rows/a", (5, 3), torch.bfloat16), Spec("x", (), torch.float64)]


# Layout and format


@given(SPECS)
def test_tensors_lie_side_by_side_and_aligned(specs):
    placed = Layout(specs)
    ends = {}
    for spec, start in zip(specs, placed.offsets, strict=True):
        assert start % spec.dtype.itemsize == 0
        ends.setdefault(start, set()).add(start + spec.nbytes)
    at = 0
    while at in ends and max(ends[at]) > at:
        at = max(ends[at])
    assert at == placed.nbytes == sum(spec.nbytes for spec in specs)


@given(SPECS, st.dictionaries(st.text(max_size=5), st.integers() | st.none() | st.text(max_size=9), max_size=3))
@settings(max_examples=60)
def test_blocks_in_files_come_back_and_are_safetensors(specs, notes):
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "block.safetensors"
        block = filled(Store(0).block(Layout(specs), notes, file), specs)
        assert (block.file, block.nbytes) == (file, sum(s.nbytes for s in specs))
        again = read(file)
        assert holds(again, specs)
        assert again.notes == notes
        assert again.file == file
        loaded = load_file(file)
        assert all(torch.equal(loaded[s.name], block.tensors[s.name]) for s in specs)
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        assert (8 + length) % ALIGNMENT == 0
        assert len(data) == 8 + length + block.nbytes
        copy = Path(name) / "copy.safetensors"
        write(copy, block)
        assert copy.read_bytes() == data


def test_a_file_is_for_its_owner_only(tmp_path):
    Store(0).block(Layout(some_specs()), {}, tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_two_tensors_of_one_name(tmp_path):
    specs = [Spec("a", (2,), torch.int8)] * 2
    with pytest.raises(ValueError, match="the same name"):
        header(Layout(specs), {})
    with pytest.raises(ValueError, match="the same name"):
        Store(0).block(Layout(specs), {}, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_many_tensors(tmp_path):
    specs = [Spec(f"rows/{i}", (1,), torch.float32) for i in range(3000)]
    filled(Store(0).block(Layout(specs), {}, tmp_path / "a"), specs)
    assert holds(read(tmp_path / "a"), specs)


# Budgets


def test_a_budget_of_memory_then_files(tmp_path):
    held = Store(1000, tmp_path)
    specs = [Spec("a", (100,), torch.float32)]
    one = held.block(Layout(specs), {})
    two = held.block(Layout(specs), {})
    assert (one.file, two.file, held.in_memory, held.in_files) == (None, None, 800, 0)
    three = filled(held.block(Layout(specs), {}), specs)
    assert three.file == UNNAMED
    assert (held.in_memory, held.in_files) == (800, 400)
    assert holds(three, specs)
    assert list(tmp_path.iterdir()) == []
    del one
    gc.collect()
    assert held.in_memory == 400
    assert held.block(Layout(specs), {}).file is None
    del three, two
    gc.collect()
    assert (held.in_memory, held.in_files) == (0, 0)


def test_recordings_leave_room_for_edits(tmp_path):
    held = Store(1000, tmp_path)
    limit = int((1 - EDIT_SHARE) * 1000)
    assert held.fits(limit, base=True)
    assert not held.fits(limit + 1, base=True)
    assert held.fits(1000)
    assert not held.fits(1001)
    whole = held.block(Layout([Spec("a", (limit + 1,), torch.uint8)]), {}, base=True)
    assert whole.file == UNNAMED
    assert held.block(Layout([Spec("a", (1000,), torch.uint8)]), {}).file is None


def test_adopted_tensors_count():
    held = Store(10)
    block = held.adopt({"a": torch.zeros(100)}, {"note": 1})
    assert (block.nbytes, block.file, held.in_memory) == (400, None, 400)
    assert not held.fits(1)


def test_a_block_outlives_its_store(tmp_path):
    specs = some_specs()
    block = filled(Store(0, tmp_path).block(Layout(specs), {}), specs)
    gc.collect()
    assert holds(block, specs)


def test_memory_comes_from_where_it_is_asked():
    asked = []

    def allocate(nbytes):
        asked.append(nbytes)
        return torch.zeros(nbytes, dtype=torch.uint8)

    specs = some_specs()
    assert holds(filled(Store(10**6).block(Layout(specs), {}, memories=[Memory(allocate=allocate)]), specs), specs)
    assert asked == [Layout(specs).nbytes]


def test_a_device_comes_first_then_the_host_then_files(tmp_path):
    held = Store(1500, tmp_path, device_budget=1000)
    memories = [Memory(on_device=True), Memory(taken=lambda nbytes: 2 * nbytes)]
    specs = [Spec("a", (100,), torch.float32)]
    blocks = [held.block(Layout(specs), {}, memories=memories) for _ in range(4)]
    assert [(block.on_device, block.file) for block in blocks] == [(True, None)] * 2 + [(False, None), (False, UNNAMED)]
    assert (held.on_device, held.in_memory, held.in_files) == (800, 800, 400)
    assert held.block(Layout(specs), {}, tmp_path / "named", memories=memories).on_device is False
    assert not held.fits(800, on_device=True)
    assert held.fits(200, on_device=True)
    assert not held.fits(200, base=True, on_device=True)
    blocks.clear()
    gc.collect()
    assert (held.on_device, held.in_memory, held.in_files) == (0, 0, 0)
    adopted = held.adopt({"a": torch.zeros(5)}, {}, on_device=True)
    assert (adopted.on_device, held.on_device) == (True, 20)


def test_the_budget_of_a_device_is_a_share_of_what_is_free_there(monkeypatch):
    assert Store().device_budget == 0
    for library in (torch.cuda, torch.xpu):
        monkeypatch.setattr(library, "mem_get_info", lambda device: (600, 1000))
        monkeypatch.setattr(library, "memory_reserved", lambda device: 500)
        monkeypatch.setattr(library, "memory_allocated", lambda device: 100)
    assert Store(device=torch.device("cuda")).device_budget == Store(device=torch.device("xpu")).device_budget == 400
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 1000)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 500)
    assert Store(device=torch.device("mps")).device_budget == 200
    assert Store(device_budget=7, device=torch.device("cuda")).device_budget == 7


def test_options():
    assert Store().budget > 0
    with pytest.raises(ValueError, match="unknown storage type 'int4'; there are fp32, bf16, fp16"):
        Store(dtype="int4")
    with pytest.raises(ValueError, match="negative"):
        Store(-1)
    with pytest.raises(ValueError, match="negative"):
        Store(device_budget=-1)
    with pytest.raises(ValueError, match="negative"):
        Store(history=-1)
    for name in ("fp32", "bf16", "fp16"):
        held, dtype = Store(0, dtype=name), DTYPES[name]
        assert held.stored(torch.float32) == dtype
        assert held.stored(torch.bfloat16) == torch.bfloat16
        assert held.stored(torch.int32) == torch.int32


def test_free_memory(monkeypatch):
    assert free_memory() > 1 << 20

    def missing(*_, **__):
        raise OSError(errno.ENOENT, "no such file")

    monkeypatch.setattr(Path, "read_text", missing)
    assert free_memory() > 1 << 20
    monkeypatch.setattr(os, "sysconf", missing)
    assert free_memory() > 1 << 20


def test_where_temporary_files_go(monkeypatch, tmp_path):
    monkeypatch.delenv("RETOUCH_SPILL", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    assert spill_folder() == tmp_path / "tmp"
    monkeypatch.setenv("RETOUCH_SPILL", str(tmp_path / "spill"))
    assert spill_folder() == tmp_path / "spill"
    block = Store(0).block(Layout(some_specs()), {})
    assert block.file == UNNAMED
    assert list((tmp_path / "spill").iterdir()) == []
    monkeypatch.delenv("RETOUCH_SPILL")
    monkeypatch.delenv("TMPDIR")
    assert spill_folder().is_dir()


CHILD = """
import sys
import tempfile
from pathlib import Path
import torch
from retouch.runtime.blocks import Layout, Spec
from retouch.runtime.store import Store
block = Store(0, Path(sys.argv[1])).block(Layout([Spec("a", (100000,), torch.float32)]), {})
block.tensors["a"].fill_(1)
import os
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files that are open cannot be removed there")
def test_temporary_files_vanish_with_the_process(tmp_path):
    ran = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ran.returncode == -9, ran.stderr
    assert list(tmp_path.iterdir()) == []


# Full disks


def refusing(number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("named", [True, False], ids=["at a file", "without a name"])
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"no space left in .*: 4 MB are needed; free some, or choose another folder"),
        (errno.EDQUOT, "no space left"),
        (errno.EFBIG, "no space left"),
        (errno.EIO, r"cannot keep 4 MB in .*: Input/output error"),
    ],
)
def test_no_space(monkeypatch, tmp_path, number, message, named):
    held = Store(0, tmp_path)
    specs = [Spec("a", (1 << 20,), torch.float32)]
    monkeypatch.setattr(os, "posix_fallocate", refusing(number))
    with pytest.raises(StoreError, match=message) as raised:
        held.block(Layout(specs), {}, tmp_path / "a" if named else None)
    assert str(tmp_path) in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    assert (held.in_memory, held.in_files) == (0, 0)
    monkeypatch.undo()
    assert holds(filled(held.block(Layout(specs), {}, tmp_path / "a" if named else None), specs), specs)


@pytest.mark.parametrize("made", ["mmap", "open"])
def test_no_mapping_and_no_file(monkeypatch, tmp_path, made):
    if made == "mmap":
        monkeypatch.setattr("retouch.runtime.blocks.mmap.mmap", refusing(errno.ENOMEM))
    else:
        monkeypatch.setattr(os, "open", refusing(errno.EACCES))
    with pytest.raises(StoreError, match="cannot keep 0 MB in"):
        write(tmp_path / "a", Block.of({"a": torch.zeros(3)}, {}))
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_no_folder(tmp_path):
    with pytest.raises(StoreError, match=r"cannot keep .*No such file"):
        Store(0).block(Layout(some_specs()), {}, tmp_path / "missing" / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot keep"):
        Store(0, tmp_path / "file").block(Layout(some_specs()), {})
    assert Store(0, tmp_path / "new" / "folder").block(Layout(some_specs()), {}).file == UNNAMED


def test_a_file_that_is_there_is_not_touched(tmp_path):
    (tmp_path / "a").write_text("precious")
    with pytest.raises(StoreError, match="cannot keep"):
        Store(0).block(Layout(some_specs()), {}, tmp_path / "a")
    assert (tmp_path / "a").read_text() == "precious"


def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], capture_output=True, check=False
        )
    except OSError:
        pytest.skip("there is no mount")
    if made.returncode:
        pytest.skip("mounting is not permitted")
    try:
        small, large = [Spec("a", (1 << 14,), torch.float32)], [Spec("a", (1 << 17,), torch.float32)]
        held = Store(0, disk)
        with pytest.raises(StoreError, match="no space left"):
            held.block(Layout(large), {}, disk / "a")
        with pytest.raises(StoreError, match="no space left"):
            held.block(Layout(large), {})
        assert list(disk.iterdir()) == []
        kept = filled(held.block(Layout(small), {}, disk / "a"), small)
        unnamed = filled(held.block(Layout(small), {}), small)
        with pytest.raises(StoreError, match="no space left"):
            [held.block(Layout(small), {}, disk / f"b{i}") for i in range(4)]
        assert holds(read(disk / "a"), small)
        assert holds(unnamed, small)
        del kept, unnamed
        gc.collect()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_systems_that_cannot_reserve(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "posix_fallocate")
    specs = [Spec("a", (700_001,), torch.float32)]
    block = filled(Store(0).block(Layout(specs), {}, tmp_path / "a"), specs)
    assert holds(read(tmp_path / "a"), specs)
    assert (tmp_path / "a").stat().st_size > block.nbytes


# Broken files


def test_every_truncation_is_noticed(tmp_path):
    file = tmp_path / "a"
    specs = some_specs()
    filled(Store(0).block(Layout(specs), {"x": 1}, file), specs)
    data = file.read_bytes()
    for size in (*range(0, len(data), 5), len(data) - 1):
        file.write_bytes(data[:size])
        with pytest.raises(StoreError, match="cannot be read"):
            read(file)
    file.write_bytes(data + b"\0")
    with pytest.raises(StoreError, match="cannot be read"):
        read(file)


def with_header(file, change):
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = change(json.loads(data[8 : 8 + length]))
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        lambda head: b"",
        lambda head: b"{" * 1000,
        lambda head: {**head, "x": {**head["x"], "dtype": "F128"}},
        lambda head: {**head, "x": {**head["x"], "shape": [2]}},
        lambda head: {**head, "x": {**head["x"], "data_offsets": [0, 10**12]}},
        lambda head: {**head, "x": {**head["x"], "data_offsets": [-8, 0]}},
        lambda head: {name: entry for name, entry in head.items() if name != "__metadata__"},
        lambda head: {**head, "__metadata__": {"notes": "{"}},
        lambda head: {**head, "__metadata__": {"other": "{}"}},
        lambda head: [1, 2],
    ],
)
def test_broken_headers_are_noticed(tmp_path, change):
    file = tmp_path / "a"
    Store(0).block(Layout(some_specs()), {}, file)
    with_header(file, change)
    with pytest.raises(StoreError, match="cannot be read"):
        read(file)


def test_what_is_no_block(tmp_path):
    with pytest.raises(StoreError, match="cannot be read"):
        read(tmp_path / "missing")
    with pytest.raises(StoreError, match="cannot be read"):
        read(tmp_path)
    save_file({"a": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(StoreError, match="cannot be read"):
        read(tmp_path / "weights.safetensors")
    (tmp_path / "long").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(StoreError, match="cannot be read"):
        read(tmp_path / "long")
