"""Jobs as pages see them: numbers, events and frames, in the order in which things happened."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from concurrent.futures import Future
from typing import Any, Literal

import numpy as np

from retouch.editing.canvas.canvas import Canvas
from retouch.editing.canvas.drawing import Composed
from retouch.editing.home import LostError
from retouch.editing.jobs import Frame, Job
from retouch.server import frames
from retouch.server.entry import Entry, Numbered
from retouch.server.facts import tree_of
from retouch.server.forms import Form
from retouch.server.frames import Difference
from retouch.server.hub import Message
from retouch.server.problems import Problem
from retouch.server.studio import Studio

Kind = Literal["open", "generate", "edit", "inpaint", "variants", "draft", "expand"]
KEPT = 32
"""Ended jobs that can still be asked for."""
PACE = 0.15
"""Seconds between what pages are told on the way; encoding and drawing more would hold up what is computed."""

NUMBERS = re.compile(r"\d+")

log = logging.getLogger("retouch.server")


class Work:
    """One job of a session, from its submission to its last refinement."""

    def __init__(self, studio: Studio, entry: Entry, kind: Kind) -> None:
        self.studio, self.entry, self.kind = studio, entry, kind
        entry.count += 1
        self.number = entry.count
        self._begun = time.perf_counter()
        self._running = False
        self._told_at: dict[str, float] = {}
        self._words: dict[str, Any] = {}

    def ask(self, form: Form) -> None:
        """What is asked, of which the log has the words where somebody wants that."""
        if self.studio.log_prompts:
            self._words = form.model_dump(include={"prompt", "negative", "areas"}, exclude_defaults=True)

    def follow(self, job: Job[Any], seconds: float) -> int:
        """Tell those who watch what becomes of a job that is predicted to take so long; its number. The session stays
        in memory until it has ended.
        """
        entry = self.entry
        entry.jobs[self.number] = Numbered(job, self.kind, seconds)
        for number in [n for n, old in entry.jobs.items() if old.job.over][:-KEPT]:
            del entry.jobs[number]
        self.studio.pool.keep(entry)
        log.info("job begun", extra=self._told(seconds=round(seconds, 3), **self._words))
        self.studio.tell(self._expect, seconds)
        job.watch(lambda frame: self.studio.tell(self._frame, frame))
        job.add_done_callback(self._remember)
        job.add_done_callback(lambda ended: self.studio.tell(self._done, ended))
        return self.number

    def predict(self, seconds: float) -> None:
        """It is known better by now how long it takes in all."""
        if self.number in self.entry.jobs:
            self.entry.jobs[self.number].seconds = seconds
            self.studio.tell(self._expect, seconds)

    def ended(self) -> int:
        """The number of a job that was done before."""
        self.studio.tell(self._event, "queued")
        self.studio.tell(self._event, "done")
        return self.number

    def progress(self, done: int, total: int, text: str) -> None:
        """Told by what is computed."""
        self.studio.tell(self._progress, done, total, text)

    def _told(self, **more: Any) -> dict[str, Any]:
        """What logs say of it."""
        return {"session": self.entry.id, "job": self.number, "kind": self.kind, **more}

    def _remember(self, job: Future[Any]) -> None:
        """What became of it, for those who ask later."""
        state = "cancelled" if job.cancelled() else "done"
        error = None if job.cancelled() else job.exception()
        key = self.entry.owner, self.entry.id, self.number
        self.studio.ended.get(key, lambda: Problem.of(error) if error else state)

    # In the thread that tells

    def _send(self, **event: Any) -> None:
        self.entry.hub.send(Message(json.dumps(event)))

    def _event(self, state: str, **more: Any) -> None:
        self._send(event="job", job=self.number, kind=self.kind, state=state, **more)

    def _expect(self, seconds: float) -> None:
        self._event("running" if self._running else "queued", seconds=round(seconds, 3))

    def _run(self) -> None:
        if not self._running:
            self._running = True
            self._event("running")

    def _is_early(self, what: str) -> bool:
        """Whether pages were told of that a moment ago; else they are now."""
        now = time.perf_counter()
        early = now - self._told_at.get(what, -math.inf) < PACE
        if not early:
            self._told_at[what] = now
        return early

    def _progress(self, done: int, total: int, text: str) -> None:
        self._run()
        if self.number in self.entry.jobs:
            self.entry.jobs[self.number].progress = done, total, text
        if done < total and self._is_early(NUMBERS.sub("", text)):
            return
        self._send(event="progress", job=self.number, done=done, total=total, text=text)

    def _frame(self, frame: Frame) -> None:
        left, top, right, bottom = frame.rectangle
        rect = (left, top, right - left, bottom - top)
        facts = frame_facts(frame)
        if frame.kind == "preview":
            self._run()
            remaining = frame.seconds * (frame.steps - frame.step) / max(frame.step, 1)
            if (remaining < PACE and self.kind != "draft") or self._is_early("preview"):  # the result comes as soon
                return
            made = frames.message("preview", frame.version, rect, frame.pixels, self.number, **facts)
            self._count("preview", made)
            self.entry.hub.send(Message(made, preview=True))
            return
        if frame.kind == "refined" and self.entry.history.current != frame.version:
            return  # pages have gone elsewhere
        again = _refined(self.entry, frame) if frame.kind == "refined" else None
        show(self.studio, self.entry, frame.kind, frame.version, self.number, facts, again)
        if frame.kind == "refined" or self.kind == "expand":
            tell_tree(self.entry)

    def _count(self, kind: str, made: bytes) -> None:
        self.studio.metrics.sent.labels(kind).inc(len(made))

    def _done(self, job: Job[Any]) -> None:
        entry = self.entry
        try:
            error = None if job.cancelled() else job.exception()
            state = "cancelled" if job.cancelled() else "failed" if error else "done"
            if error is not None:
                self._log(error)
            if isinstance(error, LostError):
                self.studio.pool.lost(entry)
            if state == "done" and not entry.gone and self.kind != "draft":
                self._note(job)
                tell_tree(entry)
            elif self.kind == "expand" and not entry.gone:  # the guess that pages were shown is gone
                show(self.studio, entry, "head", entry.history.current, None, {})
                tell_tree(entry)
            told = {"error": Problem.of(error).body()} if error else {}
            took = time.perf_counter() - self._begun
            log.info("job ended", extra=self._told(state=state, seconds=round(took, 3)))
            self._event(state, **told)
            metrics = self.studio.metrics
            metrics.jobs.labels(self.kind, state).inc()
            if state == "done":
                metrics.together.labels(self.kind).observe(job.together)
                metrics.edit_seconds.labels(self.kind).observe(took)
        finally:
            self.studio.pool.release(entry)

    def _note(self, job: Future[Any]) -> None:
        """Keep what the estimate of the edit's error is made from, until the next edit."""
        session, result = self.entry.session, job.result()
        if isinstance(result, Composed):
            result = result.edited
        if session is not None and hasattr(result, "estimate"):
            self.entry.estimate = session.version.number, result

    def _log(self, error: BaseException) -> None:
        if Problem.of(error).status_code == 500:
            log.error("job of kind %s failed", self.kind, exc_info=error, extra=self._told())


def frame_facts(frame: Frame) -> dict[str, Any]:
    """What a frame says of its cost: `share` of the dense networks' arithmetic, `saved` how many times less it is."""
    dense = frame.done + frame.saved
    share = frame.done / dense if dense else None
    saved = dense / frame.done if frame.done else None
    return {"step": frame.step, "steps": frame.steps, "seconds": frame.seconds, "share": share, "saved": saved}


def show(
    studio: Studio,
    entry: Entry,
    kind: frames.Kind,
    version: int,
    job: int | None,
    facts: dict[str, Any],
    known: Difference | None = None,
) -> bytes:
    """Bring all pages to a version, by a difference where one is known; the messages in one."""
    difference = known or entry.difference(entry.shown, version)
    entry.shown = version, None if entry.about[0] == Canvas.kind else difference.pixels
    parts = []
    for part in frames.messages(kind, difference, version, job, **facts):
        parts.append(part)
        studio.metrics.sent.labels(kind).inc(len(part))
        entry.hub.send(Message(part))
    return b"".join(parts)


def _refined(entry: Entry, frame: Frame) -> Difference | None:
    """What brings pages from a version of a canvas to the same one, refined: of two pictures only the later is there.
    None where pages hold another version, or the session is no canvas.
    """
    session, shown = entry.session, entry.shown
    if not isinstance(session, Canvas) or shown is None or shown[0] != frame.version:
        return None
    size, whole = session.size_of(frame.version), np.ones(frame.pixels.shape[:2], np.bool_)
    return Difference(frame.version, size, frame.rectangle[:2], whole, frame.pixels)


def tell_tree(entry: Entry) -> None:
    """Tell all pages of the versions."""
    entry.hub.send(Message(json.dumps({"event": "tree", **tree_of(entry)})))
