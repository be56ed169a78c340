"""Rounds: what runs when, what is timed, and how much is done."""

import time

import pytest

from retouch.bench.harness import Experiment, Progress, Suite, Variant, busy
from retouch.bench.machine import PeakMemory
from retouch.bench.report import Column


def recording(said):
    """Variants that say when they run, for every case."""
    return lambda case: [Variant(name, lambda name=name: said.append((case, name))) for name in ("dense", "update")]


def test_rounds_interleave_all_variants_of_all_cases():
    said = []
    experiment = Experiment(["a", "b"], recording(said), 2, done=lambda: said.append("done"))
    experiment.run(Progress(), "title")
    one_round = [("a", "dense"), ("a", "update"), ("b", "dense"), ("b", "update"), "done"]
    assert said == one_round * 3
    assert experiment.spread("a", "dense")["dense"]["samples"] == 2


def test_without_warming_up_only_counted_rounds_run():
    said = []
    Experiment(["a"], recording(said), 2, warm_up=False).run(Progress(), "title")
    assert len(said) == 4


def test_times_are_of_the_run_and_of_waiting_only():
    """A variant sleeps 20 ms and its device 10 ms more; what comes before and after is not counted."""
    seen = []

    def slow(*_):
        time.sleep(0.2)

    variant = Variant("x", lambda: time.sleep(0.02) or "result", lambda result: (slow(), seen.append(result)), slow)
    experiment = Experiment(["a"], lambda case: [variant], 1, warm_up=False, wait=lambda: time.sleep(0.01))
    experiment.run(Progress(), "title")
    assert seen == ["result"]
    assert 30 <= experiment.median("a", "x") < 150
    assert experiment.first("a", "x") == experiment.median("a", "x")


def test_the_first_time_is_that_of_the_warm_up_and_medians_are_not(monkeypatch):
    clock = iter([0, 9, 10, 11, 20, 22, 30, 33])
    monkeypatch.setattr("retouch.bench.harness.time.perf_counter", lambda: next(clock))
    experiment = Experiment(["a"], lambda case: [Variant("x", lambda: None)], 3)
    experiment.run(Progress(), "title")
    assert experiment.first("a", "x") == 9000
    assert experiment.median("a", "x") == 2000
    assert experiment.spread("a", "x") == {"x": {"min": 1000, "max": 3000, "samples": 3}}


def test_names_that_come_twice_have_two_samples_in_a_round():
    experiment = Experiment(["a"], lambda case: [Variant("x", lambda: None)] * 3, 2)
    experiment.run(Progress(), "title")
    assert experiment.spread("a", "x")["x"]["samples"] == 6


def test_memory_is_watched_while_warming_up():
    memory = PeakMemory()
    peaks = []
    experiment = Experiment(["a"], lambda case: [Variant("x", lambda: peaks.append(memory.rss))], 1, memory=memory)
    experiment.run(Progress(), "title")
    assert peaks[-1] > 0


def test_an_error_of_a_variant_ends_the_rounds():
    def fail():
        raise KeyboardInterrupt

    said = []
    variants = [Variant("fails", fail), Variant("follows", lambda: said.append("follows"))]
    with pytest.raises(KeyboardInterrupt):
        Experiment(["a"], lambda case: variants, 1).run(Progress(), "title")
    assert not said


def test_progress_is_the_share_of_nested_loops_that_is_done():
    said = []
    progress = Progress(lambda text, done: said.append((text, done)))
    for name, part in progress.over(["a", "b"]):
        part.say(name)
        part.steps(1, 2, "half")
        for number, inner in part.over(range(2)):
            inner.say(f"{name}{number}")
    assert said == [("a", 0), ("half", 0.25), ("a0", 0), ("a1", 0.25),
                    ("b", 0.5), ("half", 0.75), ("b0", 0.5), ("b1", 0.75)]  # fmt: skip


def test_an_experiment_says_what_it_runs_and_never_goes_back():
    said = []
    Experiment(["a", "b"], recording([]), 3).run(Progress(lambda *x: said.append(x), 0.5, 0.5), "net")
    shares = [done for _, done in said]
    assert said[0] == ("net: warming up, dense", 0.5)
    assert said[-1][0] == "net: round 3 of 3, update"
    assert shares == sorted(shares)
    assert shares[-1] < 1
    assert len(set(shares)) == len(shares) == 16


def test_busy_is_over_all_runs_of_the_same_work():
    assert busy([{"min": 4, "max": 5}, {"min": 2, "max": 3}]) == 2.5


class Small(Suite):
    columns = (Column("a", "A"), Column("twice", "twice", value=lambda row: 2 * row["a"]))

    def check(self):
        pass

    def measure(self, progress):
        yield {"a": 1, "machine": {"gpu": None, "cpu": "abacus", "threads": 1, "torch": "2", "commit": "abc"}}

    def heading(self, results):
        return "Title", "caption\nof two lines"

    def notes(self, results):
        return ["A note."]


def test_a_suite_makes_results_and_its_report(tmp_path):
    results = list(Small().results())
    assert [(each["a"], each["twice"]) for each in results] == [(1, 2)]
    Small().write_report(tmp_path / "r.md", results, "retouch bench small")
    assert (tmp_path / "r.md").read_text() == (
        "# Title\n\n`retouch bench small`, commit abc; abacus, 1 threads, PyTorch 2.\n\n"
        "| A | twice |\n| --- | --- |\n| 1 | 2 |\n\ncaption; of two lines\n\nA note.\n"
    )
