"""`retouch kernels`: what the kernels compute, and which backends have them here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from retouch.bench.options import DeviceName
from retouch.cli.app import app
from retouch.cli.common import usage_errors

if TYPE_CHECKING:
    from retouch.kernels.registry import Coverage


@app.command()
def kernels(device: DeviceName = "auto") -> None:
    """List the kernels: what each computes, which backends have it here, and why others have not."""
    with usage_errors():
        from retouch.kernels.devices import selected

        chosen = selected(device)
    from retouch.kernels.registry import coverage

    typer.echo("\n".join(_lines(coverage(chosen), str(chosen))))


def _lines(kernels: list[Coverage], device: str) -> list[str]:
    """Two lines for each kernel, then the reasons."""
    lines = [f"Kernels on {device}, and the backends that have them:"]
    for each in kernels:
        lines += [f"{each.spec.name}: {', '.join(each.have)}", f"    {each.spec.formula}"]
    return lines + [f"{backend} lacks {names}: {reason}" for (backend, reason), names in _reasons(kernels).items()]


def _reasons(kernels: list[Coverage]) -> dict[tuple[str, str], str]:
    """Names of the kernels that a backend lacks, by the backend and the reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for each in kernels:
        for lacking in each.lack.items():
            found.setdefault(lacking, []).append(each.spec.name)
    return {key: "all" if len(names) == len(kernels) else ", ".join(names) for key, names in found.items()}
