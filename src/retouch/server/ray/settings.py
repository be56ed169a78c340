"""What a cluster is started with: the `args` of the application in Serve's YAML file."""

from __future__ import annotations

import json
import math
import secrets
import socket
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from retouch.editing.bucket import Bucket
from retouch.editing.home import Folders, Home
from retouch.editing.kinds import load
from retouch.editing.store import Store
from retouch.errors import OptionError
from retouch.server.idempotency import digest
from retouch.server.limits import Limits
from retouch.server.models import Models, label
from retouch.server.security import Access
from retouch.server.serve import access_to, tokens_of

PROOF = "_cluster.json"
"""The file by which replicas see that they share a folder."""
PREFIX = 8
"""Hexadecimal digits of a session's id that tell its model, so that nobody has to look it up."""

Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """Fields that are there are known ones."""

    model_config = ConfigDict(extra="forbid")


class ModelSettings(Settings):
    """A model: its name as for `retouch edit`, and the editor's options.

    replicas: how many, or with `max_replicas` at least. cpus, gpus: of each. memory: bytes that its open sessions may
    take together. backlog: predicted seconds of work that may wait for one replica before more are started.
    """

    name: str
    policy: str = "balanced"
    device: str = "auto"
    options: dict[str, Any] = {}
    replicas: Count = 1
    max_replicas: Count | None = None
    cpus: Amount = 1
    gpus: Amount = 0
    memory: Count = Limits.memory
    backlog: Seconds = 10

    @property
    def label(self) -> str:
        """What callers call it."""
        return label(self.name)

    @property
    def prefix(self) -> str:
        """What the ids of its sessions begin with."""
        return digest(self.label)[:PREFIX]

    def models(self) -> Models:
        """The model, loaded."""
        return Models({self.label: load(self.name, policy=self.policy, device=self.device, **self.options)})


class ClusterSettings(Settings):
    """A cluster.

    home: a folder on storage that all nodes share, as `--home` of `retouch studio`, or the URL of a store of objects
    that fsspec knows, such as s3://bucket/prefix; scratch: then a folder of each node for the sessions that it works
    with. users: who gets a token; none with `no_token`, on loopback. host, port: what ingresses listen on; hosts:
    further names under which they are reached. ingresses: how many there are; several on a node share the port. drain:
    seconds that a replica gets to end what it computes, and an ingress to answer. log_prompts: whether logs have the
    words of what is asked.
    """

    home: Path | str
    scratch: Path | None = None
    models: Annotated[list[ModelSettings], Field(min_length=1)]
    users: list[str] = ["me"]
    no_token: bool = False
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    hosts: list[str] = []
    limits: dict[str, float] = {}
    ingresses: Count = 1
    drain: Seconds = 60
    log_prompts: bool = False
    proof: str = ""

    @field_validator("limits")
    @classmethod
    def _known(cls, limits: dict[str, float]) -> dict[str, float]:
        known = {each.name for each in fields(Limits)} - {"memory"}
        for name, value in limits.items():
            if name not in known:
                raise ValueError(f"there is no limit {name!r} here; there are {', '.join(sorted(known))}")
            if not 0 < value < math.inf:
                raise ValueError(f"the limit {name} is a number above 0, not {value}")
        return limits

    def sessions(self) -> Home:
        """Where sessions are kept."""
        if "://" in str(self.home):
            return Bucket(f"{self.home}/sessions", self.scratch)
        return Folders(Path(self.home) / "sessions")

    def access(self) -> Access:
        """Who may ask."""
        tokens = {} if self.no_token else tokens_of(self.home, self.users)
        return access_to(self.port, self.host, tokens, self.hosts)

    def limits_of(self, model: ModelSettings | None) -> Limits:
        """Bounds of one replica, or of the ingress."""
        given: dict[str, Any] = {name: type(getattr(Limits, name))(value) for name, value in self.limits.items()}
        return Limits(**{**given, **({"memory": model.memory} if model else {})})

    def proven(self) -> ClusterSettings:
        """The same with what is in the folder now, made if need be. OptionError when that cannot be."""
        store = Store(self.home)
        try:
            store.prove()
            store.create(PROOF, json.dumps({"proof": secrets.token_hex(8), "host": socket.gethostname()}).encode())
            proof = json.loads(store.read(PROOF))["proof"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OptionError(f"cannot keep sessions in {self.home}: {error}") from error
        return self.model_copy(update={"proof": proof})

    def check_shared(self) -> None:
        """OptionError on a node whose folder is not that of the node which started the application."""
        try:
            same = json.loads(Store(self.home).read(PROOF))["proof"] == self.proof
        except (OSError, ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise OptionError(
                f"{self.home} on {socket.gethostname()} is not the folder of the node that started the application: "
                "sessions need storage that all nodes share; mount it everywhere, or use one node"
            )
