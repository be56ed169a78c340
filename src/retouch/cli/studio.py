"""`retouch studio`: the editor in the browser, and its API."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from retouch.bench.options import DeviceName, PolicyName
from retouch.cli.app import app
from retouch.cli.common import AnyStorage, Threads, byte_count, note, quiet_libraries, set_threads, usage_errors
from retouch.errors import OptionError, RetouchError

if TYPE_CHECKING:
    from retouch.editing.kinds import AnyEditor
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
    memory: Annotated[str | None, Option(help="Memory for all open sessions together, such as 8GB (4GB).")] = None,
    device: DeviceName = "auto",
    threads: Threads = None,
) -> None:
    """Paint in the browser: the page and its API, on this machine.

    Sessions are kept as they are made, and are there again the next time.
    """
    from retouch.models.extras import require

    require("fastapi", "studio")
    from retouch.server import serve
    from retouch.server.limits import Limits
    from retouch.server.models import Models
    from retouch.server.security import LOOPBACK
    from retouch.server.studio import Studio

    with usage_errors(RetouchError, ValueError):
        names = list(model or ([DEMO] if demo else []))
        if not names:
            raise OptionError(f"no model: name one with --model, or try --demo, which has {DEMO}")
        set_threads(threads)
        folder = home or serve.default_home()
        tokens = {} if no_token else serve.tokens_of(folder, user or [USER])
        bound = serve.listening(host, port)
    with ExitStack() as unless_served, usage_errors(RetouchError):
        unless_served.callback(bound.close)
        access = serve.access_to(bound.getsockname()[1], host, tokens)
        options = {"policy": policy, "device": device, **({} if storage is None else {"storage": storage})}
        limits = Limits() if memory is None else Limits(memory=byte_count(memory) or 0)
        made = Studio(Models(_loaded(names, options)), folder / "sessions", access, limits)
        first = _first(made, picture, demo, next(iter(tokens), "local"))
        unless_served.pop_all()
    if host not in LOOPBACK:
        note(f"everybody who reaches {host} can use this server with the token; nothing between is encrypted")
    links = {name: serve.link(host, access.port, tokens.get(name), first) for name in tokens or {"local": ""}}

    def ready() -> None:
        for name, address in links.items():
            typer.echo(address if len(links) == 1 else f"{name}: {address}")
        if browser:
            serve.show(next(iter(links.values())))

    serve.run(made, bound, ready)


def _loaded(names: Sequence[str], options: dict[str, Any]) -> dict[str, AnyEditor]:
    """Editors by the names that pages use. OptionError naming a model that cannot be loaded."""
    from retouch.editing.kinds import load
    from retouch.server.models import label

    quiet_libraries()
    found: dict[str, AnyEditor] = {}
    for name in names:
        try:
            editor = load(name, **options)
        except RetouchError as error:
            raise OptionError(f"the model {name} cannot be loaded: {error}") from error
        shown = label(editor.name or name)
        if shown in found:
            raise OptionError(f"two models are called {shown}; rename the folder of one")
        found[shown] = editor
    return found


def _first(studio: Studio, picture: Path | None, demo: bool, owner: str) -> str | None:
    """The id of a session on the picture that was named, or that of the demo; None without one."""
    from retouch.editing.canvas.picture import Picture
    from retouch.editing.diffusion.editor import Editor
    from retouch.editing.images import as_pixels
    from retouch.server.forms import OpenForm
    from retouch.server.models import cropped, shows_whole
    from retouch.server.sessions import begin

    if picture is None and not demo:
        return None
    editor = studio.models.named(None)
    if picture is None:
        made = begin(studio, owner, OpenForm(generate=True, prompt=PROMPT, seed=SEED), None)
    else:
        read = Picture.read(picture)
        whole = not isinstance(editor, Editor) or shows_whole(editor, read.size)
        made = begin(studio, owner, OpenForm(), cropped(editor, as_pixels(picture)) if whole else read)
    made.job.add_done_callback(_tell_failed)
    return made.entry.id


def _tell_failed(job: Future[Any]) -> None:
    if not job.cancelled() and (error := job.exception()) is not None:
        note(f"the picture cannot be opened: {error}")
