"""The application that `serve run` and `retouch serve --ray` start."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ray
from ray import serve
from ray.serve import Application

from retouch.errors import OptionError
from retouch.server.ray.ingress import Ingress
from retouch.server.ray.placement import routed, scaled
from retouch.server.ray.replica import Replica
from retouch.server.ray.settings import ClusterSettings, ModelSettings
from retouch.server.serve import listening

NAME = "retouch"
QUIET = {"enable_access_log": False}
"""Serve's own lines say nothing that figures do not, and take time of every request."""
FAST = {
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_FREEZE_GC_ON_STARTUP": "0",
    "RAY_worker_niceness": "0",
}
"""Variables of Ray that save time of every request: threads on its way, objects that are frozen, which makes Python
collect garbage after every edit (`editing/collection.py`), and processes that give way to all others (a niceness of
15). They count where nodes are started.
"""
ONGOING = 10_000
"""Requests of one replica at once: every open page is one, so memory and admission bound them, not this."""


def application(args: ClusterSettings) -> Application:
    """An ingress, and a deployment for every model. OptionError for settings that contradict each other."""
    if len({model.label for model in args.models}) != len(args.models):
        raise OptionError("two models have one name; rename the folder of one")
    settings = args.proven()
    settings.access()  # makes the tokens, and refuses what is wrong before anything is started
    handles = {model.label: _deployed(settings, model) for model in settings.models}
    front = serve.deployment(Ingress, name="ingress").options(
        num_replicas=settings.ingresses,
        graceful_shutdown_timeout_s=settings.drain,
        ray_actor_options={"num_cpus": 0},
        logging_config=QUIET,
    )
    return front.bind(settings, handles)


def _deployed(settings: ClusterSettings, model: ModelSettings) -> Any:
    scaling = scaled(model)
    count = {"num_replicas": model.replicas} if scaling is None else {"autoscaling_config": scaling}
    made = serve.deployment(Replica, name=f"model-{model.prefix}").options(
        max_ongoing_requests=ONGOING,
        request_router_config=routed(),
        graceful_shutdown_timeout_s=settings.drain,
        health_check_period_s=5,
        logging_config=QUIET,
        ray_actor_options={"num_cpus": model.cpus, "num_gpus": model.gpus},
        **count,
    )
    return made.bind(settings, model)


def started(settings: ClusterSettings, address: str | None) -> Callable[[], None]:
    """Start the application on a cluster, or one of this machine alone; what ends it. RetouchError, with what a replica
    said, where it does not come up.
    """
    for name, value in FAST.items():
        os.environ.setdefault(name, value)
    made = application(settings)
    if address is None:
        listening(settings.host, settings.port).close()  # ingresses share it among themselves, and with nobody else
    ray.init(address or "local", include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        serve.start(proxy_location="Disabled")
        serve.run(made, name=NAME, route_prefix=None)
    except RuntimeError as error:
        why = serve.status().applications[NAME]
        told = "; ".join(each.message for each in why.deployments.values() if each.message)
        serve.shutdown()
        ray.shutdown()
        raise OptionError(f"the application did not start: {told or error}") from error

    def stop() -> None:
        serve.shutdown()
        ray.shutdown()

    return stop
