"""The pages of the repository, and the blocks of code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")
PAGES = [
    *(ROOT / name for name in TOP),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]


def title(page: Path) -> str:
    """Of a page in the output of tests."""
    return str(page.relative_to(ROOT))


BLOCK = re.compile(
    r"(?:^<!-- snippet: (?P<how>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A block of code; `how` is the comment before it: "parse", or "with" and the names it is given."""

    page: Path
    line: int
    language: str
    how: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All blocks of a page in their order; `line` is that of the first line of code."""
    text = page.read_text()
    return [
        Block(page, 1 + text[: found.start("code")].count("\n"), found["language"], found["how"] or "", found["code"])
        for found in BLOCK.finditer(text)
    ]
