"""What is told of a session: from memory, or from its folder without opening it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from retouch.server.entry import Entry, Numbered
from retouch.server.models import Models, capabilities, scale_of

TOLD = ("prompt", "negative", "strength", "steps", "guidance", "seed")


def tree_of(entry: Entry) -> dict[str, Any]:
    """The versions and which of them is the head."""
    history = entry.history
    estimates = {entry.estimate[0]: entry.estimate[1]} if entry.estimate else {}
    tree = []
    for version in history.versions:
        facts, cost = version.facts, arithmetic(version.facts)
        estimate = estimates.get(version.number)
        tree.append({
            "version": version.number,
            "parent": version.parent,
            "name": version.name,
            "prompt": facts.get("prompt"),
            "edit": facts["edit"],
            "region": facts["region"],
            "seconds": facts["seconds"].get("total"),
            "share": cost,
            "saved": 1 / cost if cost else None,
            "refined": facts.get("refined"),
            "seed": facts.get("seed"),
            "estimate": known(estimate),
            "viewport": viewport(facts),
        })  # fmt: skip
    return {"head": max(0, history.current), "tree": tree}


def viewport(facts: Any) -> dict[str, Any] | None:
    """Where an edit of a canvas was made (left, top, width and height), at which scale, in which way and why."""
    if "viewport" not in facts:
        return None
    (top, bottom), (left, right) = facts["viewport"]
    rect = [left, top, right - left, bottom - top]
    return {"rect": rect, "scale": facts["scale"], "way": facts["way"], "why": facts["why"]}


def arithmetic(facts: Any) -> float | None:
    """The share of the dense networks' arithmetic that an edit took."""
    macs, dense = facts.get("macs"), facts.get("dense_macs")
    return macs / dense if macs and dense else None


def known(result: Any) -> float | None:
    """The estimate of an edit's error, if somebody asked for it before."""
    return result.error if result is not None and "disagreement" in vars(result.estimate or result) else None


def facts_of(models: Models, entry: Entry) -> dict[str, Any]:
    """All of a session."""
    session, (kind, settings) = entry.session, entry.about
    saved = () if session is not None or entry.awaited is not None else entry.manifest().versions
    nbytes = session.held_bytes if session is not None else sum(each.nbytes for each in saved)
    name, scale, (height, width) = models.name_of(settings), scale_of(kind), entry.size
    return {
        "id": entry.id,
        "kind": kind,
        "model": name,
        "size": [height * scale, width * scale],
        "state": "open" if entry.history.versions else "opening",
        "settings": {each: settings[each] for each in TOLD if each in settings},
        **tree_of(entry),
        "bytes": nbytes,
        "capabilities": {**capabilities(models.editors[name], kind), "instances": settings.get("instances", False)},
        "jobs": [job_of(number, each) for number, each in list(entry.jobs.items()) if not each.job.done()],
    }


def job_of(number: int, job: Numbered) -> dict[str, Any]:
    """What is told of a job that waits or runs, with what was told of it last."""
    state = "running" if job.job.running() else "queued"
    progress = dict(zip(("done", "total", "text"), job.progress or (), strict=False))
    return {"job": number, "kind": job.kind, "state": state, "seconds": round(job.seconds, 3), **progress}


def listed(models: Models, entry: Entry) -> dict[str, Any]:
    """A line in the list of sessions."""
    facts = facts_of(models, entry)
    modified = datetime.fromtimestamp(entry.touched, UTC).isoformat(timespec="seconds")
    head = facts["head"]
    thumb = f"api/sessions/{entry.id}/versions/{head}.png?thumb" if facts["tree"] else None
    return {**{name: facts[name] for name in ("id", "kind", "model", "size", "bytes")}, "head": head, "thumb": thumb,
            "modified": modified, "versions": len(facts["tree"])}  # fmt: skip
