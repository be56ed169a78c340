"""Which replica a request goes to: the one place that knows Serve's routers, which are experimental in 2.60."""

from __future__ import annotations

import math
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy, RequestRouterConfig
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import PendingRequest, RunningReplica

from retouch.server.ray.settings import ModelSettings

FREE, SESSIONS, BACKLOG, HELD = "free", "sessions", "backlog", "held"
"""What replicas tell of themselves: bytes that sessions may still take, sessions in memory; seconds of work that wait,
and the share of the memory that is taken.
"""
CHOSEN, DRAWN = "session", "drawn"
"""In what the ingress says of a request that makes a session: its id, and those of which it is chosen on the way."""
PERIOD = 2.0
"""Seconds between what they tell."""
FULL = 0.8
"""Share of the memory from which another replica is wanted."""


class Affinity(ConsistentHashRouter):  # type: ignore[misc]
    """Requests of one session go to one replica, and to no other while that lives. One that is to be made gets that of
    the ids drawn for it whose replica has the most memory free, so that sessions are spread by what they take. What
    belongs to no session goes where there is the most room.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas to try, in order."""
        if pending_request is None or pending_request.metadata.session_id:
            found: list[list[RunningReplica]] = await super().choose_replicas(candidate_replicas, pending_request)
            return found
        pending_request.routing_context.should_backoff = True
        state = pending_request.args[0]["state"] if pending_request.args else {}
        drawn = [state[CHOSEN]] if CHOSEN in state else state.get(DRAWN, ())
        if not drawn:
            return [[replica] for replica in sorted(candidate_replicas, key=_room, reverse=True)]
        owners = {id_: self._replicas.get(first) for id_ in drawn for first in self._lookup_ranked_replicas(id_)[:1]}
        known = {id_: owner for id_, owner in owners.items() if owner is not None}
        if not known:
            return []
        state[CHOSEN] = max(known, key=lambda id_: _room(known[id_]))
        return [[known[state[CHOSEN]]]]


def _room(replica: RunningReplica) -> tuple[float, float]:
    told = replica.routing_stats or {}
    return told.get(FREE, math.inf), -told.get(SESSIONS, 0)


def routed() -> RequestRouterConfig:
    """How the deployment of a model is routed to: strictly, as another replica would have to take the session over."""
    return RequestRouterConfig(
        request_router_class=f"{__name__}.{Affinity.__name__}",
        request_router_kwargs={"num_fallback_replicas": 0},
        request_routing_stats_period_s=PERIOD,
    )


def of_session(handle: DeploymentHandle, id_: str | None, stream: bool) -> DeploymentHandle:
    """The handle by which a request of a session is sent; None: of no session. It goes by gRPC, one call there and
    back; Ray's objects, which are owned and counted, would take three times as long.
    """
    return handle.options(session_id=id_ or "", stream=stream, _by_reference=False)


# How many


def scaled(model: ModelSettings) -> AutoscalingConfig | None:
    """When replicas of a model are started and stopped; None: their number is fixed."""
    if model.max_replicas is None:
        return None
    return AutoscalingConfig(
        min_replicas=model.replicas,
        max_replicas=model.max_replicas,
        policy=AutoscalingPolicy(policy_function=f"{__name__}:wanted", policy_kwargs={"backlog": model.backlog}),
    )


def wanted(context: AutoscalingContext, backlog: float = 10) -> tuple[int, dict[str, Any]]:
    """As many replicas as bring work that waits below `backlog` seconds each, and memory below the share `FULL`."""
    told = context.aggregated_metrics or {}
    waiting, held = (sum(told.get(name, {}).values()) for name in (BACKLOG, HELD))
    count = max(math.ceil(waiting / backlog), math.ceil(held / FULL), 1)
    return min(max(count, context.capacity_adjusted_min_replicas), context.capacity_adjusted_max_replicas), {}
