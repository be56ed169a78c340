"""Handles, memory, index tables, fingerprints and the choice of the instruction set."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import cases
from retouch.ir.expr import Instr
from retouch.kernels import cpu
from retouch.kernels.cpu.backend import Cpu
from retouch.kernels.reference import Reference
from retouch.ops.copy import quantized
from retouch.ops.gemm import Packed


def test_rows_share_memory():
    x = torch.randn(4, 6)
    rows = cpu.Rows(x[:, 1:5])
    assert (rows.rows, rows.channels, rows.ld, rows.dtype) == (4, 4, 6, "float32")
    assert rows.data_ptr == x[:, 1:5].data_ptr()
    part = rows.slice(1, 2)
    assert (part.channels, part.data_ptr) == (2, x[:, 2:].data_ptr())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_of_rows(dtype):
    name = str(dtype).removeprefix("torch.")
    assert cpu.Rows(torch.empty(2, 3, dtype=dtype)).dtype == name
    assert cpu.Arena(cpu.empty(64)).rows(0, 2, 3, name).dtype == name


def test_rows_keep_their_memory_alive():
    part = cpu.Rows(torch.full((1000, 100), 7.0)).slice(3, 50)
    out = torch.empty(1000, 50)
    cpu.copy_rows(cpu.Rows(out), None, part)
    assert torch.equal(out, torch.full((1000, 50), 7.0))


def test_rows_of_a_parameter():
    assert cpu.Rows(torch.nn.Parameter(torch.randn(2, 3))).rows == 2


@pytest.mark.parametrize(("tensor", "error", "message"), [
    (torch.randn(3), ValueError, "got 1 dimensions"),
    (torch.randn(3, 4).T, ValueError, "channel stride 1"),
    (torch.randn(1, 4).expand(3, 4), ValueError, "rows overlap"),
    (torch.zeros(3, 4, dtype=torch.int64), TypeError, "float32, bfloat16, float16, float64 or int8"),
    (torch.zeros(3, 4, device="meta"), TypeError, "CPU memory"),
    ("rows", TypeError, "CPU memory"),
])  # fmt: skip
def test_bad_rows(tensor, error, message):
    with pytest.raises(error, match=message):
        cpu.Rows(tensor)


HALF, SUMS = torch.zeros(4, 8).half(), torch.zeros(1, 16, dtype=torch.float64)
PLAIN, ZEROS, ROW = torch.zeros(4, 8), torch.zeros(4, dtype=torch.int32), torch.zeros(1, 8)
BOUNDS, ADD = torch.tensor([0, 4], dtype=torch.int32), (Instr("rows", 0), Instr("vector", 0), Instr("add", 0, 1))
PACKED = Packed(torch.zeros(8, 1, 8), 1)


@pytest.mark.parametrize(("name", "arguments"), [
    ("row_map", (HALF, None, ADD, [PLAIN], [ROW])),
    ("row_map", (PLAIN, None, ADD, [HALF], [ROW])),
    ("row_map", (PLAIN, None, ADD, [(HALF, ZEROS)], [ROW])),
    ("row_map", (PLAIN, None, ADD, [PLAIN], [ROW.half()])),
    ("gemm", (HALF, None, PLAIN, None, PACKED)),
    ("gemm", (PLAIN, None, HALF, None, PACKED)),
    ("depthwise", (HALF, None, PLAIN, None, ROW)),
    ("depthwise", (PLAIN, None, HALF, None, ROW)),
    ("depthwise", (PLAIN, None, PLAIN, None, ROW.half())),
    ("pool", (HALF, None, PLAIN, ZEROS)),
    ("pool", (PLAIN, None, HALF, ZEROS)),
    ("pool", (PLAIN, None, PLAIN, ZEROS, HALF[:, :1])),
    ("attention", (HALF, None, PLAIN, None, [PLAIN], [PLAIN], 1, 1.0, BOUNDS)),
    ("attention", (PLAIN, None, HALF, None, [HALF], [HALF], 1, 1.0, BOUNDS)),
    ("attention", (PLAIN, None, PLAIN, None, [HALF], [PLAIN], 1, 1.0, BOUNDS)),
    ("attention", (PLAIN, None, PLAIN, None, [PLAIN], [HALF], 1, 1.0, BOUNDS)),
    ("channel_sums", (SUMS.half(), PLAIN, None, BOUNDS)),
    ("channel_sums", (SUMS, HALF, None, BOUNDS)),
    ("fold_norm", (SUMS.half(), [SUMS], [], 1, 4.0, 1e-5)),
    ("fold_norm", (SUMS.float(), [SUMS.half()], [], 1, 4.0, 1e-5)),
    ("fold_norm", (SUMS.float(), [SUMS], [], 1, 4.0, 1e-5, ROW.half())),
    ("fold_norm", (SUMS.float(), [SUMS], [], 1, 4.0, 1e-5, ROW, ROW.half())),
    ("fit_probes", (SUMS.half(), PLAIN, None, PLAIN, None, BOUNDS)),
    ("fit_probes", (SUMS.float(), HALF, None, PLAIN, None, BOUNDS)),
    ("fit_probes", (SUMS.float(), PLAIN, None, HALF, None, BOUNDS)),
    ("move_sums", (SUMS.half(), SUMS, ROW, ROW, 4.0, BOUNDS)),
    ("move_sums", (SUMS, SUMS, ROW.half(), ROW, 4.0, BOUNDS)),
    ("shuffle", (HALF, None, HALF, ZEROS, ZEROS, 0, 1)),
    ("unshuffle", (HALF, None, HALF, ZEROS, 0, 1)),
])  # fmt: skip
def test_only_copies_take_float16(name, arguments):
    with pytest.raises(TypeError, match="float16"):
        getattr(cpu, name)(*map(cases.handle, arguments))


def test_weights_are_not_packed_from_float16():
    with pytest.raises(TypeError, match="float32 or bfloat16"):
        cpu.pack(PACKED.weight.half())


def test_slice_outside():
    with pytest.raises(ValueError, match=r"outside 0 \.\. 4"):
        cpu.Rows(torch.randn(3, 4)).slice(2, 3)


def test_index():
    index = cpu.Index(torch.tensor([[3, -1], [0, 7]], dtype=torch.int32))
    assert (index.shape, index.min, index.max, len(index)) == ((2, 2), -1, 7, 2)
    empty = cpu.Index(torch.empty(0, dtype=torch.int32))
    assert (empty.shape, empty.max) == ((0,), -1)
    assert cpu.Index(np.arange(3, dtype=np.int32)).max == 2


@pytest.mark.parametrize(("tensor", "error", "message"), [
    (torch.zeros(3), TypeError, "int32"),
    (torch.zeros(3, dtype=torch.int64), TypeError, "int32"),
    (torch.tensor([-2], dtype=torch.int32), ValueError, "-1 for a row of zeros"),
    (torch.zeros(3, 4, dtype=torch.int32).T, ValueError, "contiguous"),
    (torch.zeros(2, 2, 2, dtype=torch.int32), ValueError, r"\[M, taps\]"),
])  # fmt: skip
def test_bad_index(tensor, error, message):
    with pytest.raises(error, match=message):
        cpu.Index(tensor)


def test_arena():
    arena = cpu.Arena(cpu.empty(1000))
    rows = arena.rows(400, 5, 10, "float32")
    cpu.copy_rows(rows, None, cpu.Rows(torch.zeros(5, 10)))
    assert (rows.rows, rows.channels, rows.ld) == (5, 10, 10)
    assert rows.data_ptr - arena.rows(0, 1, 1, "bfloat16").data_ptr == 400
    del arena
    out = torch.ones(5, 10)
    cpu.copy_rows(cpu.Rows(out), None, rows)
    assert out.count_nonzero() == 0
    with pytest.raises(ValueError, match="needs 1200 bytes of 1000"):
        cpu.Arena(cpu.empty(1000)).rows(0, 30, 10, "float32")
    with pytest.raises(TypeError, match="uint16"):
        cpu.Arena(cpu.empty(1000)).rows(0, 30, 10, "uint16")
    with pytest.raises(TypeError, match="uint8"):
        cpu.Arena(torch.zeros(9))
    with pytest.raises(ValueError, match="contiguous"):
        cpu.Arena(torch.zeros(9, dtype=torch.uint8)[::2])


def test_freed_memory_is_used_again_for_what_is_not_much_smaller():
    cpu.release_memory()
    memory = cpu.empty(1 << 20)
    place = memory.data_ptr()
    del memory
    assert cpu.empty(1 << 19).data_ptr() != place  # half of it would be idle
    again = cpu.empty((1 << 20) - (1 << 16))
    assert again.data_ptr() == place
    assert cpu.empty(1 << 20).data_ptr() != place  # it is in use
    del again
    assert cpu.release_memory() >= 1 << 20
    assert cpu.release_memory() == 0


def until(done, seconds=30):
    """What `done` gives once that is true."""
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.15)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="parts of a mapping cannot be given back there")
def test_memory_is_brought_in_for_as_much_as_was_asked_for_before_a_pause():
    cpu.release_memory()
    held = [cpu.empty(3 << 19, huge=False) for _ in range(2)]
    assert until(cpu.release_memory) == 3 << 20
    assert cpu.release_memory() == 0  # and no more of it before somebody asks again

    def in_one_piece():
        parts = [cpu.empty(1 << 19, huge=False) for _ in range(3)]
        held.append(parts)
        first = parts[0].data_ptr()
        return [part.data_ptr() - first for part in parts] == [0, 1 << 19, 1 << 20]  # mappings grow downwards

    until(in_one_piece)
    for number, part in enumerate(held[-1]):
        part.fill_(number)
    assert [int(part.sum()) for part in held[-1]] == [0, 1 << 19, 1 << 20]


@pytest.mark.skipif(sys.platform == "win32", reason="parts of a mapping cannot be given back there")
def test_freed_parts_become_one_piece_again():
    def joined():
        cpu.release_memory()
        whole = cpu.empty(3 << 18, huge=False)
        place = whole.data_ptr()
        del whole
        parts = [cpu.empty(1 << 18, huge=False) for _ in range(3)]
        in_turn = [part.data_ptr() - place for part in parts] == [0, 1 << 18, 1 << 19]
        parts.pop(1)
        parts.clear()
        return in_turn and cpu.empty(3 << 18, huge=False).data_ptr() == place

    until(joined)  # more may be brought in meanwhile, right beside it


def test_parts_of_memory_are_carved_at_once():
    memory = cpu.empty(1000)
    parts = [(400, 5, 10, "float32"), (0, 3, 2, "bfloat16")]
    one, two = cpu.Arena(memory).carve(parts)
    assert (one.rows, one.channels, one.dtype) == (5, 10, "float32")
    assert (two.rows, two.channels, two.dtype) == (3, 2, "bfloat16")
    assert (one.data_ptr - two.data_ptr, two.data_ptr) == (400, memory.data_ptr())
    with pytest.raises(ValueError, match="needs 1200 bytes of 1000"):
        cpu.Arena(memory).carve([(0, 30, 10, "float32")])


@pytest.mark.parametrize("threads", [1, 2])
def test_large_copies_together_are_those_one_by_one(threads):
    before = cpu.num_threads()
    cpu.set_num_threads(threads)
    x, levels = torch.randn(3000, 40), quantized(torch.randn(3000, 40))
    some, others = (torch.randperm(3000)[:2000].to(torch.int32) for _ in range(2))
    few = torch.tensor([5, -1, 7], dtype=torch.int32)
    calls = [(x, some, others), (x, None, others), (x, some, None), (levels, some, others), (x, None, few)]

    def copied(copy):
        found = [torch.zeros(3000, 40) for _ in calls]
        handles = [None if i is None else cpu.Index(i) for _, *two in calls for i in two]
        made = [
            (cpu.Rows(dst), handles[2 * i], cpu.Rows(src[: 2000 if calls[i][2] is None else 3000]), handles[2 * i + 1])
            for i, (dst, (src, *_)) in enumerate(zip(found, calls, strict=True))
        ]
        copy(iter(made))
        return found

    one_by_one = copied(lambda made: [cpu.copy_rows(*each) for each in made])
    assert all(torch.equal(a, b) for a, b in zip(copied(cpu.copy_many), one_by_one, strict=True))
    cpu.set_num_threads(before)


def test_bad_copies():
    one, two = cpu.Rows(torch.zeros(1, 1)), cpu.Rows(torch.zeros(1, 2))
    with pytest.raises(TypeError, match="expected Rows"):
        cpu.copy_many([(1, None, 2, None)])
    with pytest.raises(TypeError, match="tuples"):
        cpu.copy_many([one])
    with pytest.raises(ValueError, match="channels of src"):
        cpu.copy_many([(two, None, one, None)])


@pytest.mark.parametrize("of", [Cpu(), Cpu({}), Reference(torch.device("cpu"))])
def test_copies_take_items_of_the_lists_that_they_are_called_with(of):
    fixed, where, places = torch.zeros(4, 3), of.index(np.array([2, 0], np.int32)), of.index(np.array([1, 3], np.int32))
    copies = of.copies([((0, 1), None, (1, 0), places), (of.rows(fixed), where, (1, 1), None)])
    for seed in range(2):
        torch.manual_seed(seed)
        unused, out, many, few = torch.zeros(2, 3), torch.zeros(2, 3), torch.randn(5, 3), torch.randn(2, 3)
        copies([of.rows(unused), of.rows(out)], [of.rows(many), of.rows(few)])
        assert torch.equal(out, many[[1, 3]])
        assert torch.equal(fixed[[2, 0]], few)
        assert not unused.any()


@pytest.mark.parametrize("of", [Cpu(), Cpu({}), Reference(torch.device("cpu"))])
@pytest.mark.parametrize("to", [None, np.array([5, 0, 3, 1], np.int32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copy_takes_each_row_of_the_source_that_it_is_in(of, to, dtype):
    which, rows = np.array([1, 1, 0, 2], np.int32), np.array([4, 0, 1, 1], np.int32)
    where = None if to is None else of.index(to)
    copies = of.copies([((0, 0), where, [(1, 0), (1, 2), (2, 0)], (of.index(which), of.index(rows)))])
    for seed in range(2):
        torch.manual_seed(seed)
        out, first, second, third = torch.zeros(6, 3, dtype=dtype), *(torch.randn(n, 3) for n in (2, 5, 2))
        copies([of.rows(out)], [of.rows(first), of.rows(out), of.rows(second)], [of.rows(third)])
        wanted = torch.stack([second[4], second[0], first[1], third[1]]).to(dtype)
        assert torch.equal(out[:4] if to is None else out[to], wanted)


def test_bad_copies_of_several_sources():
    rows, index = cpu.Rows(torch.zeros(2, 3)), lambda *entries: Cpu().index(np.array(entries, np.int32))
    for sources, places, error, text in (
        ([rows], index(0), TypeError, r"\(which, rows\)"),
        ([rows], (index(0), None), TypeError, "expected an Index"),
        ([], (index(), index()), ValueError, "no source"),
        ([rows], (index(0, 0), index(0)), ValueError, "length of which"),
        ([rows, rows], (index(2), index(0)), ValueError, r"which are not all in 0 \.\. 1"),
        ([rows, rows], (index(-1), index(0)), ValueError, "which are not all"),
        ([rows, rows], (index(0), index(-1)), ValueError, "must not be negative"),
        ([rows, 1], (index(0), index(0)), TypeError, r"\(list, item\)"),
    ):
        with pytest.raises(error, match=text):
            cpu.Copies([(rows, None, sources, places)])
    with pytest.raises(ValueError, match="length of dst_index"):
        cpu.Copies([(rows, index(0), [rows], (index(0, 0), index(0, 1)))])
    some = cpu.Copies([(rows, None, [rows, (0, 0)], (index(0, 1), index(1, 2)))])
    with pytest.raises(ValueError, match="row 2 of a source of 2"):
        some([rows])
    with pytest.raises(ValueError, match="channels of src"):
        some([cpu.Rows(torch.zeros(3, 4))])
    with pytest.raises(TypeError, match="different dtypes"):
        some([cpu.Rows(torch.zeros(3, 3, dtype=torch.bfloat16))])
    with pytest.raises(ValueError, match="more rows than dst has"):
        cpu.Copies([(rows, None, [rows, rows], (index(0, 1, 0), index(0, 0, 0)))])()


def test_bad_lists_of_copies():
    rows = cpu.Rows(torch.zeros(2, 3))
    with pytest.raises(TypeError, match=r"Rows, or \(list, item\)"):
        cpu.Copies([(1, None, rows, None)])
    with pytest.raises(TypeError, match=r"Rows, or \(list, item\)"):
        cpu.Copies([((0, -1), None, rows, None)])
    with pytest.raises(TypeError, match="tuples"):
        cpu.Copies([rows])
    copies = cpu.Copies([((0, 1), None, rows, None)])
    assert len(copies) == 1
    for lists in ((), ([rows],), ((rows, rows),)):
        with pytest.raises(ValueError, match="there is no item 1 in list 0"):
            copies(*lists)
    with pytest.raises(TypeError, match="lists of Rows"):
        copies([rows, 1])
    with pytest.raises(ValueError, match="channels of src"):
        copies([rows, cpu.Rows(torch.zeros(2, 4))])


@pytest.mark.parametrize("nbytes", [0, 1, 5000, 5 << 20])
def test_empty(nbytes):
    memory = torch.from_dlpack(cpu.empty(nbytes))
    assert (memory.dtype, memory.shape) == (torch.uint8, (nbytes,))
    memory.fill_(1)


def test_freed_memory_is_reused_until_released():
    cpu.release_memory()
    first = cpu.empty(6 << 20)
    where = first.data_ptr()
    del first
    assert cpu.empty(6 << 20).data_ptr() == where
    assert cpu.release_memory() == 6 << 20
    assert cpu.release_memory() == 0


@given(size=st.sampled_from([1, 3, 16, 17, 100, 20000, 600000]), seed=cases.seeds)
def test_fingerprint_sees_every_byte(size, seed):
    random = cases.Random(seed)
    x = torch.randn(size, generator=random.generator)
    before = cpu.fingerprint(x)
    assert cpu.fingerprint(x.clone()) == before
    with cases.on_isa(cases.ISAS[0], 5):
        assert cpu.fingerprint(x) == before
    x.view(torch.int32)[random.index(0, size, 1).long()] ^= 1
    assert cpu.fingerprint(x) != before


def test_a_sampler_sees_the_ends():
    x = torch.zeros(100_003)
    sample = cpu.Sampler([x], 100)
    before = sample()
    for place in (0, -1, 100 * 16):
        x[place] = 1.0
        assert sample() != before
        x[place] = 0.0
    x[20] = 1.0
    assert sample() == before


def test_fingerprint_tells_lengths_apart():
    assert len({cpu.fingerprint(torch.zeros(n)) for n in range(40)}) == 40


def test_a_sampler_of_many():
    tensors = [torch.randn(5, 3, 3, 3), torch.randn(7), torch.randn(5, 3, 3, 3).to(memory_format=torch.channels_last)]
    sample = cpu.Sampler(tensors, 8)
    before = sample()
    assert cpu.Sampler([t.clone() for t in tensors], 8)() == before
    assert cpu.Sampler(tensors[::-1], 8)() != before
    tensors[2][0, 0, 0, 0] += 1
    assert sample() != before
    with pytest.raises(ValueError, match="dense"):
        cpu.fingerprint(torch.randn(5, 5)[:, ::2])
    with pytest.raises(ValueError, match="positive"):
        cpu.Sampler(tensors, 0)


def test_instruction_sets():
    before = cpu.isa()
    assert before in cases.ISAS
    assert cases.ISAS[-1] == "portable"
    with pytest.raises(ValueError, match=r"choose from .*portable"):
        cpu.set_isa("abacus")
    assert cpu.isa() == before


def test_instruction_set_from_the_environment():
    code = "from retouch.kernels import cpu; print(cpu.isa())"
    run = subprocess.run([sys.executable, "-c", code], env={"RETOUCH_ISA": "portable", "PATH": ""}, capture_output=True,
                         text=True, check=True)  # fmt: skip
    assert run.stdout.strip() == "portable"


def test_threads():
    with pytest.raises(ValueError, match="at least 1"):
        cpu.set_num_threads(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rows_as_tensors_share_memory_and_keep_it(dtype):
    x = torch.zeros(5, 7).to(dtype)
    tensor = cpu.Rows(x[:, 1:]).slice(1, 3).tensor()
    tensor += 2
    assert (tensor.dtype, tensor.shape, tensor.stride()) == (dtype, (5, 3), (7, 1))
    assert torch.equal(x[:, 2:5], tensor)
    assert x.sum() == 30
    name = str(dtype).removeprefix("torch.")
    kept = cpu.Arena(cpu.empty(4096)).rows(64, 4, 3, name).tensor()
    kept.fill_(7)
    torch.empty(1 << 20).fill_(1)
    assert torch.equal(kept, torch.full((4, 3), 7.0).to(dtype))
    assert cpu.Rows(kept).data_ptr == kept.data_ptr()


@pytest.mark.parametrize("shape", [(4,), (4, 9), (0,), (0, 9), (1, 1)])
def test_index_tables_as_tensors(shape):
    index = torch.randint(-1, 5, shape, dtype=torch.int32)
    assert torch.equal(cpu.Index(index).tensor(), index)


def test_programs_know_their_instructions():
    code = [("rows", 0, 0, 0.0), ("leaky_relu", 0, 0, 0.1)]
    assert cpu.Program(iter(code)).instructions == tuple(code)


ENDS = """
import threading, time, torch
from retouch.kernels import cpu
a, b = (cpu.Rows(torch.zeros(20000, 512)) for _ in range(2))
def work():
    while True:
        cpu.copy_rows(a, None, b, None)
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
"""


def test_a_process_may_end_while_other_threads_compute():
    ran = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
