"""What `retouch bench` runs: dense, record and update of named networks, interleaved."""

from retouch.bench.edits import Edit, read_mask, square
from retouch.bench.measure import Options, measure
from retouch.bench.report import check_writable, markdown, restless, table, write_json

__all__ = [
    "Edit",
    "Options",
    "check_writable",
    "markdown",
    "measure",
    "read_mask",
    "restless",
    "square",
    "table",
    "write_json",
]
