"""`retouch studio | serve`: the editor in the browser and its API, on this machine or on a cluster of Ray."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from retouch.bench.options import AnyStorage, DeviceName, PolicyName, Threads, size
from retouch.cli.app import app
from retouch.cli.common import note, quiet_libraries, usage_errors
from retouch.errors import OptionError, RetouchError

if TYPE_CHECKING:
    from retouch.server.studio import Studio

DEMO, PROMPT, SEED = "builtin/emoji", "crying face", 7
PORT, HOST, USER = 8188, "127.0.0.1", "me"


@app.command()
def studio(
    picture: Annotated[Path | None, Argument(metavar="[PICTURE]", help="A picture to open at once.")] = None,
    model: Annotated[
        list[str] | None, Option(help="What pages may use, as for `retouch edit`; may be given several times.")
    ] = None,
    port: Annotated[int, Option(min=0, max=65535, help="Port; 0: any that is free.")] = PORT,
    host: Annotated[str, Option(help="Address to listen on.")] = HOST,
    browser: Annotated[bool, Option("--browser/--no-browser", help="Open the page.")] = True,
    no_token: Annotated[bool, Option("--no-token", help="Ask nobody for a token.")] = False,
    user: Annotated[list[str] | None, Option(help="Somebody with a token and sessions of their own.")] = None,
    home: Annotated[Path | None, Option(help="Folder of the sessions (in your data folder).")] = None,
    demo: Annotated[bool, Option("--demo", help=f"With {DEMO} and a picture to paint on.")] = False,
    policy: PolicyName = "balanced",
    storage: AnyStorage = None,
    memory: Annotated[int | None, size("Memory for all open sessions together, such as 8GB (4GB).")] = None,
    together: Annotated[
        int, Option(min=1, help="Edits of as many sessions are computed at once, where that is predicted to be faster.")
    ] = 1,
    log_prompts: Annotated[bool, Option("--log-prompts", help="Log jobs, with the words that were asked.")] = False,
    device: DeviceName = "auto",
    threads: Threads = None,
) -> None:
    """Paint in the browser: the page and its API, on this machine.

    Sessions are kept as they are made, and are there again the next time.
    """
    from retouch.models.extras import require

    require("fastapi", "studio")
    from retouch.server import logs, serve
    from retouch.server.limits import Limits
    from retouch.server.models import Models
    from retouch.server.security import LOOPBACK
    from retouch.server.studio import Studio

    with usage_errors(RetouchError, ValueError):
        names = list(model or ([DEMO] if demo else []))
        if not names:
            raise OptionError(f"no model: name one with --model, or try --demo, which has {DEMO}")
        folder = home or serve.default_home()
        tokens = {} if no_token else serve.tokens_of(folder, user or [USER])
        bound = serve.listening(host, port)
    with ExitStack() as unless_served, usage_errors(RetouchError):
        unless_served.callback(bound.close)
        access = serve.access_to(bound.getsockname()[1], host, tokens)
        options = {"policy": policy, "device": device, **({} if storage is None else {"storage": storage})}
        limits = Limits(memory=Limits.memory if memory is None else memory, together=together)
        quiet_libraries()
        if log_prompts:
            logs.start()
        made = Studio(Models.loaded(names, **options), folder / "sessions", access, limits, log_prompts=log_prompts)
        first = _first(made, picture, demo, next(iter(tokens), "local"))
        unless_served.pop_all()
    if host not in LOOPBACK:
        note(f"everybody who reaches {host} can use this server with the token; nothing between is encrypted")
    links = {name: serve.link(host, access.port, tokens.get(name), first) for name in tokens or {"local": ""}}

    def ready() -> None:
        _tell(links)
        if browser:
            serve.show(next(iter(links.values())))

    serve.run(made, bound, ready)


def _tell(links: dict[str, str]) -> None:
    """What opens the page for everybody."""
    for name, address in links.items():
        typer.echo(address if len(links) == 1 else f"{name}: {address}")


def _first(studio: Studio, picture: Path | None, demo: bool, owner: str) -> str | None:
    """The id of a session on the picture that was named, or that of the demo; None without one."""
    from retouch.server.forms import OpenForm
    from retouch.server.sessions import begin, source_in

    if picture is None and not demo:
        return None
    form = OpenForm() if picture else OpenForm(generate=True, prompt=PROMPT, seed=SEED)
    made = begin(studio, owner, form, source_in(studio.models.named(None), picture) if picture else None)
    made.job.add_done_callback(_tell_failed)
    return made.entry.id


def _tell_failed(job: Future[Any]) -> None:
    if not job.cancelled() and (error := job.exception()) is not None:
        note(f"the picture cannot be opened: {error}")


@app.command()
def serve(
    model: Annotated[list[str] | None, Option(help="What pages may use; may be given several times.")] = None,
    ray: Annotated[bool, Option("--ray", help="On Ray Serve, the only way so far.")] = False,
    address: Annotated[str | None, Option(help="A running cluster, as `auto`; without it one is started here.")] = None,
    replicas: Annotated[int, Option(min=1, help="Processes of each model.")] = 1,
    cpus: Annotated[float, Option(min=0, help="Cores of each.")] = 1,
    gpus: Annotated[float, Option(min=0, help="GPUs of each.")] = 0,
    port: Annotated[int, Option(min=1, max=65535, help="Port.")] = 8000,
    home: Annotated[str | None, Option(help="Folder of the sessions, on storage of all nodes, or a URL.")] = None,
    user: Annotated[list[str] | None, Option(help="Somebody with a token and sessions.")] = None,
    policy: PolicyName = "balanced",
    memory: Annotated[int | None, size("Memory for the open sessions of each process, such as 8GB (4GB).")] = None,
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
        from retouch.server import serve as pages
        from retouch.server.limits import Limits
        from retouch.server.ray.application import started
        from retouch.server.ray.settings import ClusterSettings, ModelSettings

        limit = Limits.memory if memory is None else memory
        models = [
            ModelSettings(name=name, policy=policy, replicas=replicas, cpus=cpus, gpus=gpus, memory=limit)
            for name in model
        ]
        settings = ClusterSettings(home=home or pages.default_home(), models=models, users=user or ["me"], port=port)
        tokens = settings.access().tokens
        stop = started(settings, address)
    _tell({name: pages.link("127.0.0.1", port, token, None) for name, token in tokens.items()})
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    over.wait()
    note("ending what is computed")
    stop()
