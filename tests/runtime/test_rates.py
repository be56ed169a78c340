"""Rates of kernels: fitted, kept in the user's cache, and measured again when a file cannot be used."""

import json
import stat
import time
from dataclasses import astuple

import numpy as np
import pytest
import torch

from retouch.ir.work import Work
from retouch.kernels import backend
from retouch.plan.cost import Rate, amounts, key
from retouch.plan.peaks import Peaks, of_gpu
from retouch.runtime import rates, timing
from support import costs

WANTED = {"version": 1, "backend": "cpu", "threads": 2}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cache" / "rates.json"


class Measuring:
    """Counts how often rates are measured."""

    def __init__(self):
        self.found, self.times = costs(launch=1e-5, gemm=Rate(1e-6, 1e-12, 2e-11, 3e-11)), 0

    def __call__(self):
        self.times += 1
        return self.found


def test_rates_are_measured_once(file):
    measuring = Measuring()
    first = rates.cached(file, WANTED, measuring)
    assert rates.cached(file, WANTED, measuring) == first == measuring.found
    assert measuring.times == 1
    assert [each.name for each in file.parent.iterdir()] == [file.name]


ALONE = rates._alone


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Says how busy the machine is, and which share of the time the thread that measures has."""

    def say(load, obtained):
        monkeypatch.setattr(rates, "_load", lambda: load)
        monkeypatch.setattr(rates, "_alone", lambda make: (make(), obtained))

    say(0.1, 0.9)
    return say


@pytest.mark.parametrize(("then", "now", "times"), [
    ((1.5, 0.9), 1.5, 1), ((1.5, 0.9), 0.7, 1), ((1.5, 0.9), 0.1, 2), ((0.7, 0.9), 0.1, 1),
    ((0.1, 0.7), 0.7, 1), ((0.1, 0.7), 0.1, 2),
])  # fmt: skip
def test_rates_of_a_busy_machine_are_measured_again_on_a_quiet_one(file, quiet, then, now, times):
    measuring = Measuring()
    for each in (then, (now, 0.9), (now, 0.9)):
        quiet(*each)
        rates.cached(file, WANTED, measuring)
    assert measuring.times == times


def test_rates_are_not_measured_again_for_ever(file, quiet):
    measuring = Measuring()
    quiet(0.1, 0.5)
    for _ in range(10):
        assert rates.cached(file, WANTED, measuring) == measuring.found
    assert measuring.times == rates.TIMES


def test_a_thread_that_waits_for_others_has_less_of_the_time():
    assert ALONE(lambda: time.sleep(0.05))[1] < rates.OBTAINED


def test_rates_of_another_machine_are_not_used(file):
    measuring = Measuring()
    rates.cached(file, WANTED, measuring)
    rates.cached(file, {**WANTED, "threads": 3}, measuring)
    assert measuring.times == 2
    assert json.loads(file.read_text())["machine"]["threads"] == 3


def _without(part):
    def damage(content):
        del content["rates"][part]

    return damage


def _set(*path, to):
    def damage(content):
        *parents, last = path
        for each in parents:
            content = content[each]
        content[last] = to

    return damage


@pytest.mark.parametrize("damage", [
    _without("kernels"), _set("rates", "kernels", to={}), _set("rates", "launch", to=-1.0),
    _set("rates", "launch", to=float("nan")), _set("rates", "launch", to="much"), _set("rates", to=[]),
    _set("rates", "other", to=1.0), _set("rates", "kernels", "gemm float32", to={"speed": 1}),
    _set("rates", "kernels", "gemm float32", "mac", to=None), _set("machine", "version", to=0),
])  # fmt: skip
def test_a_damaged_file_is_measured_again(file, damage):
    measuring = Measuring()
    rates.cached(file, WANTED, measuring)
    content = json.loads(file.read_text())
    damage(content)
    file.write_text(json.dumps(content))
    assert rates.cached(file, WANTED, measuring) == measuring.found
    assert rates.cached(file, WANTED, measuring) == measuring.found
    assert measuring.times == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100000, b'{"machine": 1}'])
def test_a_file_that_is_none_of_ours_is_replaced(file, content):
    file.parent.mkdir()
    file.write_bytes(content)
    measuring = Measuring()
    for _ in range(2):
        assert rates.cached(file, WANTED, measuring) == measuring.found
    assert measuring.times == 1


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path, caplog):
    blocker = tmp_path / "file"
    blocker.write_text("")
    measuring = Measuring()
    assert rates.cached(blocker / "rates.json", WANTED, measuring) == measuring.found
    assert "cannot be kept" in caplog.text


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path / "here"))
    assert rates.cache_folder() == tmp_path / "here"
    monkeypatch.delenv("RETOUCH_CACHE")
    assert rates.cache_folder().name == "retouch"


def test_threads_have_rates_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path))
    monkeypatch.setattr(rates, "measure", lambda kernels: costs(launch=float(torch.get_num_threads())))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            assert rates.costs_of(backend("reference")).launch == threads
    finally:
        torch.set_num_threads(before)
    assert len(list(tmp_path.iterdir())) == 2
    assert not any(stat.S_IMODE(each.stat().st_mode) & 0o022 for each in tmp_path.iterdir())


def test_costs_are_found_again_from_times():
    rate = Rate(2e-6, 5e-12, 3e-11, 7e-11)
    rng = np.random.default_rng(0)
    work = [Work("gemm", torch.float32, *map(int, rng.integers(1, 2000, 4)), steps=i % 5) for i in range(12)]
    assert astuple(timing.fitted([(each, rate.seconds(each)) for each in work])) == pytest.approx(astuple(rate))


def test_no_fitted_cost_is_negative():
    rng = np.random.default_rng(1)
    for _ in range(20):
        work = [Work("gemm", torch.float32, *map(int, rng.integers(1, 2000, 4))) for _ in range(6)]
        found = timing.fitted([(each, float(rng.random()) + 0.01) for each in work])
        assert all(cost >= 0 for cost in (found.call, found.mac, found.byte, found.element))


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_every_shape_that_is_timed_can_be_run_and_counts_as_its_operations_do(monkeypatch, name):
    monkeypatch.setattr(timing, "COLD", 1 << 22)
    kernels = backend(name)
    for dtype in (torch.float32, torch.bfloat16):
        shapes = timing.Shapes(kernels, dtype)
        for kernel in timing.taking(dtype):
            for case in getattr(shapes, kernel)():
                case.calls[-1]()
                assert case.work.kernel == kernel
                assert all(amount >= 0 for amount in amounts(case.work))


def test_measured_rates_are_complete(monkeypatch):
    monkeypatch.setattr(timing.Case, "seconds", lambda case: 1e-6 + 1e-12 * case.work.macs)
    found = timing.measure(backend("cpu"))
    assert found.checked() is found
    assert {key(name, dtype) for dtype in backend("cpu").dtypes for name in timing.taking(dtype)} == set(found.kernels)


@pytest.mark.parametrize(("title", "name"), [
    ("NVIDIA GeForce RTX 3090", "rtx3090"), ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA H100 80GB HBM3", "h100"),
    ("NVIDIA GeForce GTX 1080", None),
])  # fmt: skip
def test_gpus_go_by_their_published_peaks(title, name):
    found = of_gpu(title)
    assert (found.name if found else None) == name


def test_published_peaks_name_their_source():
    assert Peaks(of_gpu("NVIDIA H100 80GB HBM3")).source == "published peaks of NVIDIA H100 SXM"
