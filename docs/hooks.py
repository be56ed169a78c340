"""What the site shows besides this folder: benchmarks/, the changelog, every command by its help, all errors."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files
from typer.main import get_command

import retouch
from retouch.cli import app

ROOT = Path(__file__).parents[1]
SHOWN = ("CHANGELOG.md", "benchmarks/*.md", "benchmarks/*.png", "benchmarks/results/*.png")
COMMANDS, ERRORS = "<!-- commands -->", "<!-- errors -->"


def on_files(files: Files, config: Any) -> Files:
    """Add the files that lie elsewhere in the repository."""
    for pattern in SHOWN:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the commands, or the errors, where a page asks for them."""
    errors = (f"::: retouch.{name}\n" for name in sorted(retouch.__all__) if name.endswith(("Error", "Warning")))
    markdown = markdown.replace(ERRORS, "\n".join(errors))
    return markdown.replace(COMMANDS, "\n".join(reference(get_command(app), "retouch")))


def reference(command: Any, name: str) -> Iterator[str]:
    """A command and its sub-commands in Markdown."""
    children = getattr(command, "commands", {})
    if name != "retouch":
        yield from _described(command, name)
    for child, found in children.items():
        yield from reference(found, f"{name} {child}")


def _described(command: Any, name: str) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    yield f"\n### `{name}`\n"
    yield f"`{' '.join([name, *command.collect_usage_pieces(context)])}`\n"
    yield f"{(command.help or '').strip()}\n"
    records = [record for each in command.params if (record := each.get_help_record(context))]
    if records:
        yield "| option | |\n|---|---|"
    for option, text in records:
        yield f"| `{option.replace('|', ', ')}` | {escape(text).replace('[', '&#91;').replace('|', '&#124;')} |"
