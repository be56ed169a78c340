"""A replica's figures in those of Ray, which Prometheus reads of every node."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry
from ray.serve.metrics import Gauge

PERIOD = 5.0
"""Seconds between copies."""


class Mirror:
    """Copies all samples of a registry to gauges of the same names, with the replica's labels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._gauges: dict[str, Gauge] = {}
        self._stop = threading.Event()
        threading.Thread(target=self._go_on, name="retouch figures", daemon=True).start()

    def _go_on(self) -> None:
        while not self._stop.wait(PERIOD):
            self.copy()

    def copy(self) -> None:
        """Bring them up to date."""
        for metric in self._registry.collect():
            for sample in metric.samples:
                if sample.name.endswith("_created"):
                    continue
                gauge = self._gauges.get(sample.name)
                if gauge is None:
                    gauge = Gauge(sample.name, metric.documentation, tuple(sample.labels))
                    self._gauges[sample.name] = gauge
                gauge.set(sample.value, dict(sample.labels))

    def close(self) -> None:
        """Copy no more."""
        self._stop.set()
