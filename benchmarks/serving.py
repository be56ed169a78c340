"""What serving is held to.

    python benchmarks/serving.py dense ddpm-256 --steps 4      # four people on one replica, against dense edits
    python benchmarks/serving.py overhead builtin/emoji        # a stroke through a cluster, against a studio
    python benchmarks/serving.py together builtin/emoji        # eight people's strokes together, against one by one
    python benchmarks/serving.py updates sd15-unet             # updates of a network together, against one by one

dense: four people paint at once on a studio, as fast as it answers; in turn with that the same edits are computed
densely (`session.reference`, channels-last), one after the other and without any server, which is more than a dense one
could serve. overhead: one person on each, strokes in turn. together: people paint at once, as fast as a studio answers,
which computes up to so many strokes together in one round and one after the other in the next; twice as many people, so
that strokes wait while others are computed. updates: of recordings
of their own for regions of their own, new ones and the same again. Times are medians of what took turns in one process.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import requests
import torch
import typer
from shared import seconds

from retouch import Editor, Region, compile, models
from retouch.bench.dense import to_channels_last
from retouch.bench.serve import Load, Person, Server, Tally
from retouch.editing.canvas.canvas import Canvas
from retouch.editing.diffusion import session as diffusion
from retouch.editing.kinds import load
from retouch.editing.session import GAIN
from retouch.editing.worker import worker_of
from retouch.models import pipelines
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store
from retouch.server import serve
from retouch.server.limits import Limits
from retouch.server.models import Models
from retouch.server.security import Access
from retouch.server.studio import Studio

PEOPLE = 4
app = typer.Typer()
Strokes = Annotated[int, typer.Option("--strokes", help="Of each person in a round.")]
Rounds = Annotated[int, typer.Option("--rounds", help="Turns.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Of the model (its own).")]


@contextmanager
def served(editor: Any, home: Path) -> Iterator[Server]:
    """A studio in this process."""
    bound = serve.listening("127.0.0.1", 0)
    port = bound.getsockname()[1]
    studio = Studio(Models({"it": editor}), home, Access(port), Limits(memory=64 << 30))
    server = serve.Server(serve.configured(serve.application(studio)), lambda: None)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    yield Server("studio", f"http://127.0.0.1:{port}")
    server.should_exit = True
    thread.join()


def person(server: Server, load: Load, number: int = 0) -> Person:
    """One who has begun. ValueError for a size of which the model makes a canvas: edits there are made otherwise."""
    found = Person(server, load, number, Tally())
    found.begin()
    if found.facts()["kind"] == Canvas.kind:
        raise ValueError(f"a picture of {load.size} pixels is a canvas; take the model's own --size")
    return found


def crowd(server: Server, load: Load, told: Connection) -> None:
    """People in a process of their own, who begin, and paint as many strokes at once as they are told to."""
    with ThreadPoolExecutor(load.people) as pool:
        people = [person(server, load, number) for number in range(load.people)]

        def paint(each: Person, strokes: int) -> None:
            for _ in range(strokes):
                each.paint()

        told.send(None)
        while strokes := told.recv():
            list(pool.map(partial(paint, strokes=strokes), people))
            told.send(None)


@contextmanager
def painting(editor: Any, load: Load) -> Iterator[Callable[[int], None]]:
    """People at a studio in this process, who have begun; what is given lets all of them paint so many strokes at
    once, as fast as it answers.
    """
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as home, served(editor, Path(home)) as server:
        ours, theirs = context.Pipe()
        people = context.Process(target=crowd, args=(server, load, theirs))
        people.start()
        theirs.close()  # so that their end is seen
        ours.recv()

        def paint(strokes: int) -> None:
            ours.send(strokes)
            ours.recv()

        try:
            yield paint
        finally:
            ours.send(0)
            people.join()


def editor_of(model: str, policy: str) -> Any:
    known = model in pipelines.PIPELINES
    editor = Editor(pipelines.get(model).build(), policy=policy) if known else load(model, policy=policy)
    for part in editor.model.pipe.components.values():
        if isinstance(part, torch.nn.Module):
            to_channels_last(part)
    return editor


@app.command()
def dense(
    model: str,
    policy: str = "fast",
    share: float = 0.01,
    size: int = 256,
    steps: Steps = None,
    strokes: Strokes = 5,
    rounds: Rounds = 5,
) -> None:
    """Seconds of the server for a stroke when four people paint, and of a dense edit."""
    editor = editor_of(model, policy)
    side = round(size * share**0.5)
    load = Load(people=PEOPLE, size=size, stroke=side, steps=steps, think=0)
    picture = np.full((size, size, 3), 90, np.uint8)
    with painting(editor, load) as paint:
        given = {} if steps is None else {"steps": steps}
        session = editor.open(picture, seed=1, **given)
        painted = picture.copy()
        painted[:side, :side] = 200
        paint(1)
        session.reference(painted)
        strokes_s, edits_s = [], []
        for _ in range(rounds):
            strokes_s.append(seconds(paint, strokes) / (PEOPLE * strokes))
            edits_s.append(seconds(session.reference, painted))
        stroke_s, dense_s = statistics.median(strokes_s), statistics.median(edits_s)
        print(json.dumps({"stroke_s": stroke_s, "dense_s": dense_s, "times": dense_s / stroke_s}))


@app.command()
def overhead(
    model: str, policy: str = "fast", size: int = 128, stroke: int = 8, steps: Steps = None, strokes: Strokes = 100
) -> None:
    """Seconds of a stroke to its result, of one person at a studio and at a cluster of one replica."""
    load = Load(people=1, size=size, stroke=stroke, steps=steps)
    ways = {"studio": ["studio", "--no-browser", "--threads", "1"], "cluster": ["serve", "--ray", "--cpus", "1"]}
    with ExitStack() as running:
        people = {}
        for name, words in ways.items():
            home = Path(running.enter_context(tempfile.TemporaryDirectory()))
            server = running.enter_context(begun(name, home, [*words, "--model", model, "--policy", policy]))
            people[name] = person(server, load)
        for each in people.values():
            for _ in range(5):
                each.paint()
            each.tally.seconds.clear()
        for _ in range(strokes):
            for each in people.values():
                each.paint()
        taken = {name: each.tally.seconds for name, each in people.items()}
        found = {name: statistics.median(each) for name, each in taken.items()}
        pairs = statistics.median(b - a for a, b in zip(taken["studio"], taken["cluster"], strict=True))
        over = (found["cluster"] - found["studio"]) * 1e3
        print(json.dumps({**found, "over_ms": over, "over_ms_of_pairs": pairs * 1e3}))


@app.command()
def together(
    model: str,
    policy: str = "fast",
    people: int = 16,
    count: int = 8,
    gain: float = GAIN,
    share: float = 0.005,
    size: int = 128,
    steps: Steps = None,
    strokes: Strokes = 3,
    rounds: Rounds = 5,
) -> None:
    """Seconds of the server for a stroke when people paint at once, `count` of their strokes together and one by one;
    gain: predicted, from which they are computed so.
    """
    diffusion.GAIN = gain
    editor = editor_of(model, policy)
    worker = worker_of(editor.device)
    load = Load(people=people, size=size, stroke=max(1, round(size * share**0.5)), steps=steps, think=0)
    ways: dict[str, list[tuple[float, float]]] = {"together": [], "one_by_one": []}
    with painting(editor, load) as paint:
        for turn in range(-1, rounds):
            for name, found in ways.items():
                worker.together = count if name == "together" else 1
                cpu = time.process_time()
                taken = seconds(paint, strokes)
                if turn >= 0:  # the first round warms up
                    found.append((taken / (people * strokes), (time.process_time() - cpu) / (people * strokes)))
    told(ways)


@app.command()
def updates(
    network: str,
    policy: str = "fast",
    count: int = 4,
    share: float = 0.005,
    dtype: str = "float32",
    tiny: bool = False,
    rounds: Rounds = 7,
) -> None:
    """Seconds of an update of a network, of several recordings and regions together and one by one."""
    made = models.get(network)
    inputs, sizes = made.inputs(tiny, getattr(torch, dtype)), made.image_size(tiny)
    module = made.build(tiny, getattr(torch, dtype))
    net = compile(module, inputs.args, inputs.kwargs, policy=policy, keep_module=False)
    starts = [Snapshot.of(net.record(*inputs.args, **inputs.kwargs)[1], Store()) for _ in range(count)]
    side, random = max(1, round((share * sizes[0] * sizes[1]) ** 0.5)), np.random.default_rng(1)

    def drawn() -> tuple[list[Region], list[Any]]:
        regions, given = [], []
        for number in range(count):
            mask = torch.zeros(sizes, dtype=torch.bool)
            top, left = (int(random.integers(0, each - side)) for each in sizes)
            mask[top : top + side, left : left + side] = True
            edited = made.edited(inputs, mask, number)
            regions.append(Region.from_mask(mask))
            given.append((edited.args, edited.kwargs))
        return regions, given

    def one_by_one(regions: list[Region], given: list[Any]) -> None:
        for start, region, (args, kwargs) in zip(starts, regions, given, strict=True):
            net.update(start.recording(), region, *args, **kwargs)

    def all_together(regions: list[Region], given: list[Any]) -> None:
        net.update_many([start.recording() for start in starts], regions, given)

    ways = {"together": all_together, "one_by_one": one_by_one}
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    new: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        regions, given = drawn()
        for found in (new, seen, seen):
            for name, way in ways.items():
                cpu = time.process_time()
                taken = seconds(way, regions, given)
                found[name].append((taken / count, (time.process_time() - cpu) / count))
    decision = net.explain(regions[0]).decision
    assert decision is not None
    print(json.dumps({"predicted": net.gain(regions[0], count), "share": decision.share}))
    told(new, "new ")
    told(seen, "seen ")


def told(ways: dict[str, list[tuple[float, float]]], what: str = "") -> None:
    """Print the medians of seconds and of seconds of the processors, and how many times fewer they are together."""
    found = {name: [statistics.median(each) for each in zip(*taken, strict=True)] for name, taken in ways.items()}
    wall, cpu = (b / a for a, b in zip(found["together"], found["one_by_one"], strict=True))
    rounds = zip(*([wall for wall, _ in taken] for taken in ways.values()), strict=True)
    pairs = statistics.median(b / a for a, b in rounds)
    print(what + json.dumps({**found, "times": wall, "times_of_pairs": pairs, "times_cpu": cpu}))


@contextmanager
def begun(name: str, home: Path, words: list[str]) -> Iterator[Server]:
    """A server in a process of its own."""
    with closing(serve.listening("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address, tokens = f"http://127.0.0.1:{port}", home / "tokens.json"
    process = subprocess.Popen([sys.executable, "-m", "retouch.cli", *words, "--port", str(port), "--home", str(home)])
    try:
        while not answers(address):
            if process.poll() is not None:
                raise RuntimeError(f"the {name} did not start")
            time.sleep(0.1)
        yield Server(name, address, json.loads(tokens.read_text())["me"])
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/healthz", timeout=5).ok
    except requests.RequestException:
        return False


if __name__ == "__main__":
    app()
