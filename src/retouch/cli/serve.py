"""`retouch serve`: the studio on a cluster of Ray."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from retouch.bench.options import PolicyName
from retouch.cli.app import app
from retouch.cli.common import byte_count, note, usage_errors
from retouch.errors import OptionError, RetouchError


@app.command()
def serve(
    model: Annotated[list[str] | None, Option(help="What pages may use; may be given several times.")] = None,
    ray: Annotated[bool, Option("--ray", help="On Ray Serve, the only way so far.")] = False,
    address: Annotated[str | None, Option(help="A running cluster, as `auto`; without it one is started here.")] = None,
    replicas: Annotated[int, Option(min=1, help="Processes of each model.")] = 1,
    cpus: Annotated[float, Option(min=0, help="Cores of each.")] = 1,
    gpus: Annotated[float, Option(min=0, help="GPUs of each.")] = 0,
    port: Annotated[int, Option(min=1, max=65535, help="Port.")] = 8000,
    home: Annotated[Path | None, Option(help="Folder of the sessions, on storage of all nodes.")] = None,
    user: Annotated[list[str] | None, Option(help="Somebody with a token and sessions.")] = None,
    policy: PolicyName = "balanced",
    memory: Annotated[
        str | None, Option(help="Memory for the open sessions of each process, such as 8GB (4GB).")
    ] = None,
) -> None:
    """Serve many people: the studio's page and API with several processes, which take over from one another.

    For clusters write a file and start it with `serve run`; see the guide on serving.
    """
    from retouch.models.extras import require

    with usage_errors(RetouchError, ValueError):
        if not ray:
            raise OptionError("say --ray, or use `retouch studio` for one process")
        if not model:
            raise OptionError("no model: name one with --model")
        require("ray", "ray")
        from retouch.server import serve as studio
        from retouch.server.limits import Limits
        from retouch.server.ray.application import started
        from retouch.server.ray.settings import ClusterSettings, ModelSettings

        limit = Limits.memory if memory is None else byte_count(memory) or 0
        models = [
            ModelSettings(name=name, policy=policy, replicas=replicas, cpus=cpus, gpus=gpus, memory=limit)
            for name in model
        ]
        settings = ClusterSettings(home=home or studio.default_home(), models=models, users=user or ["me"], port=port)
        tokens = settings.access().tokens
        stop = started(settings, address)
    for name, token in tokens.items():
        shown = studio.link("127.0.0.1", port, token, None)
        typer.echo(shown if len(tokens) == 1 else f"{name}: {shown}")
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    over.wait()
    note("ending what is computed")
    stop()
