"""A simulated cluster: people who paint on many replicas, with measured times of strokes and recordings.

    retouch bench serve http://127.0.0.1:8188 --token ... --people 4 --rate 100 --think 2 --json one.json
    python benchmarks/cluster.py one.json --replicas 1000 --people 4000

A replica computes one job at a time, edits before recordings, and keeps the sessions used last within its memory; one
that was put away is read again, or made again where that is faster. Sessions are placed as the router places them: by
consistent hashing with 100 points for each replica, of four ids the one whose replica has the fewest. Times are drawn
from those of the file. What it leaves out: the network, the ingress, that jobs of one session are joined, and that what
replicas tell of themselves is two seconds old.
"""

from __future__ import annotations

import argparse
import bisect
import hashlib
import heapq
import json
import random
from collections import OrderedDict, deque
from pathlib import Path

import numpy as np

POINTS, DRAWS = 100, 4


def point(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


class Ring:
    """Consistent hashing, as `retouch.server.ray.placement` has it of Ray."""

    def __init__(self, count: int) -> None:
        pairs = sorted((point(f"{replica}:{i}"), replica) for replica in range(count) for i in range(POINTS))
        self.points, self.replicas = [p for p, _ in pairs], [r for _, r in pairs]

    def of(self, session: str) -> int:
        return self.replicas[bisect.bisect(self.points, point(session)) % len(self.points)]


class Replica:
    def __init__(self) -> None:
        self.urgent: deque = deque()
        self.patient: deque = deque()
        self.busy = False
        self.open: OrderedDict[int, None] = OrderedDict()
        self.worked = 0.0
        self.sessions = 0


def simulate(given: argparse.Namespace, strokes: list[float], recordings: list[float]) -> dict[str, float]:
    dice = random.Random(given.seed)
    ring, replicas = Ring(given.replicas), [Replica() for _ in range(given.replicas)]
    room = max(1, int(given.memory / given.session))
    again = min(given.session / given.read, float(np.median(recordings)))
    events: list = []
    number = 0

    def at(when: float, what: str, *of: object) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (when, number, what, of))

    homes: dict[int, Replica] = {}
    left = [given.strokes] * given.people
    for person in range(given.people):
        at(dice.uniform(0, given.ramp), "arrive", person)
    waits: list[float] = []
    first: list[float] = []
    evictions = reopened = 0
    end = 0.0

    def begin(now: float, replica: Replica) -> None:
        nonlocal evictions, reopened
        queue = replica.urgent or replica.patient
        if replica.busy or not queue:
            return
        kind, person, since = queue.popleft()
        seconds = dice.choice(strokes if kind == "stroke" else recordings)
        if kind == "stroke" and person not in replica.open:
            seconds, reopened = seconds + again, reopened + 1
        replica.open[person] = None
        replica.open.move_to_end(person)
        while len(replica.open) > room:
            replica.open.popitem(last=False)
            evictions += 1
        replica.busy, replica.worked = True, replica.worked + seconds
        at(now + seconds, "done", replica, kind, person, since)

    while events:
        now, _, what, of = heapq.heappop(events)
        end = now
        if what == "arrive":
            drawn = [replicas[ring.of(f"session {of[0]} {draw}")] for draw in range(DRAWS)]
            homes[of[0]] = min(drawn, key=lambda replica: replica.sessions)
            homes[of[0]].sessions += 1
            homes[of[0]].patient.append(("recording", of[0], now))
            begin(now, homes[of[0]])
        elif what == "paint":
            homes[of[0]].urgent.append(("stroke", of[0], now))
            begin(now, homes[of[0]])
        else:
            replica, kind, person, since = of
            replica.busy = False
            (waits if kind == "stroke" else first).append(now - since)
            left[person] -= kind == "stroke"
            if left[person] > 0:
                at(now + dice.expovariate(1 / given.think), "paint", person)
            begin(now, replica)
    return {
        **{f"stroke_p{p}": float(np.percentile(waits, p)) for p in (50, 95, 99)},
        **{f"first_picture_p{p}": float(np.percentile(first, p)) for p in (50, 95, 99)},
        "strokes_per_second": len(waits) / end,
        "busy": float(np.mean([replica.worked for replica in replicas]) / end),
        "sessions_on_the_fullest": max(replica.sessions for replica in replicas),
        "sessions_in_the_mean": given.people / given.replicas,
        "evictions": evictions,
        "reopened": reopened,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("times", type=Path, help="What `retouch bench serve --json` wrote, of one idle replica.")
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--people", type=int, default=4000)
    parser.add_argument("--strokes", type=int, default=20)
    parser.add_argument("--think", type=float, default=5.0, help="Seconds.")
    parser.add_argument("--ramp", type=float, default=60.0, help="Seconds in which all people come.")
    parser.add_argument("--memory", type=float, default=16e9, help="Bytes of a replica for sessions.")
    parser.add_argument("--session", type=float, default=2e9, help="Bytes of a session.")
    parser.add_argument("--read", type=float, default=1e9, help="Bytes a second that a replica reads of the storage.")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    measured = json.loads(given.times.read_text())["servers"]["server"]
    found = simulate(given, measured["seconds"], [measured["recording_p50"]])
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
