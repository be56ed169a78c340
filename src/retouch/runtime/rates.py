"""What kernels cost on this machine: timed once, and kept in the user's cache folder.

A file holds the rates of one backend with one number of threads on one processor. What is damaged, of another
version or of another machine is measured again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import NamedTemporaryFile
from time import perf_counter, thread_time
from typing import Any

import torch
from platformdirs import user_cache_path

from retouch.kernels import Backend
from retouch.plan.cost import CostModel, Rate, Rates
from retouch.plan.peaks import Peaks, of_gpu
from retouch.runtime.threads import thread_count
from retouch.runtime.timing import measure

VERSION = 7
"""Of the files, and of the shapes that are timed."""

QUIET, BUSY = 0.5, 1.0
"""Processes for each processor: rates that were measured from `BUSY` on are measured again below `QUIET`."""

OBTAINED = 0.85
"""Share of the time in which a thread that times kernels runs, at least: of less, others ran on its processor, and the
rates are measured again as well. Beside one busy program on two processors it was 0.76 to 0.79, alone 0.91 to 0.94.
"""

TIMES = 4
"""They are not measured more often than that: a thread may wait for other reasons."""

log = logging.getLogger("retouch")


def costs_of(backend: Backend) -> CostModel | None:
    """What a backend's kernels cost: measured on CPUs, from published peaks on GPUs; None where neither is known.

    The first call on a machine for a backend and a number of threads takes a few seconds; others read a file.
    """
    if backend.device.type == "cuda":
        device = of_gpu(torch.cuda.get_device_name(backend.device))
        return Peaks(device, graphs=backend.graphs) if device else None
    if backend.device.type != "cpu" or backend.name == "triton":
        return None
    return _of_cpu(backend, thread_count())


def _of_cpu(backend: Backend, threads: int) -> Rates:
    wanted = identity(backend, threads)
    path = cache_folder() / f"rates-{_digest(wanted)}.json"
    if path not in _known:
        _known[path] = cached(path, wanted, lambda: measure(backend))
    return _known[path]


_known: dict[Path, Rates] = {}
"""The rates of this process, which do not change while it runs."""


def cache_folder() -> Path:
    """RETOUCH_CACHE, or the user's cache folder."""
    given = os.environ.get("RETOUCH_CACHE")
    return Path(given) if given else user_cache_path("retouch")


def identity(backend: Backend, threads: int) -> dict[str, Any]:
    """What rates depend on."""
    return {
        "version": VERSION,
        "backend": backend.name,
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "torch": torch.__version__,
    }


def processor() -> dict[str, str]:
    """What Linux tells of the first processor, by its names; nothing where there is no /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, value in fields.items()}


def _processor() -> str:
    """Name, family and model of the processor."""
    named = processor()
    told = " ".join(named.get(each, "") for each in ("model name", "cpu family", "model", "stepping"))
    return told if named else f"{platform.machine()} {platform.processor()}"


def _digest(wanted: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(wanted, sort_keys=True).encode(), digest_size=8).hexdigest()


def cached(path: Path, wanted: dict[str, Any], make: Callable[[], Rates]) -> Rates:
    """The rates in a file, if it is for this identity; made and written if it is missing or cannot be used."""
    load = _load()
    found, times = _read(path, wanted)
    if found is not None and not (0 < times < TIMES and load < QUIET):
        return found
    log.info("timing the %s kernels once on this machine; the rates go to %s", wanted["backend"], path)
    rates, obtained = _alone(make)
    disturbed = load >= BUSY or obtained < OBTAINED
    _write(path, {"machine": wanted, "disturbed": times + 1 if disturbed else 0, "rates": asdict(rates)})
    return rates


def _alone(make: Callable[[], Rates]) -> tuple[Rates, float]:
    """The rates, and the share of the time in which this thread ran."""
    began, ran = perf_counter(), thread_time()
    rates = make()
    return rates, (thread_time() - ran) / (perf_counter() - began)


def _load() -> float:
    """Processes that want a processor, for each that there is; 0 where the system does not say."""
    return os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0


def _read(path: Path, wanted: dict[str, Any]) -> tuple[Rates | None, int]:
    """Those of a file, and how often they were measured beside others, the last time included; None and 0 for what
    cannot be used.
    """
    try:
        content = json.loads(path.read_bytes())
        if content["machine"] != wanted:
            return None, 0
        given = content["rates"]
        kernels = {name: Rate(**rate) for name, rate in given.pop("kernels").items()}
        return Rates(kernels, **given).checked(), int(content["disturbed"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None, 0


def _write(path: Path, content: dict[str, Any]) -> None:
    """In one step, so that nobody reads half a file; where nothing can be written, the next process measures."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
            json.dump(content, file, indent=1)
        os.replace(file.name, path)
    except OSError as error:
        log.warning("the rates of kernels cannot be kept in %s: %s", path, error)
