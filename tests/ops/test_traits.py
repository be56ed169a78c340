"""What other rooms know of operations: their traits, and not their classes."""

import ast
from pathlib import Path

import pytest

import retouch
from retouch.frontend.data import _operations
from retouch.ir.program import Op, Read
from retouch.ir.value import Value

ROOT = Path(retouch.__file__).parent
CLASSES = {Op.__name__, *(kind.__name__ for kind in _operations(Op))}
FILES = [file for file in ROOT.rglob("*.py") if ROOT / "ops" not in file.parents]


def told_apart(tree):
    """Names of classes that are asked for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            yield from (x.id for x in ast.walk(node.args[1]) if isinstance(x, ast.Name))
        elif isinstance(node, ast.MatchClass):
            yield from (x.id for x in ast.walk(node.cls) if isinstance(x, ast.Name))
        elif isinstance(node, ast.Compare) and getattr(getattr(node.left, "func", None), "id", "") == "type":
            yield from (x.id for other in node.comparators for x in ast.walk(other) if isinstance(x, ast.Name))


def known(tree):
    """Names of operations that a file imports."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imports = [node for node in found if (node.module or "").startswith(("retouch.ops", "retouch.ir.program"))]
    return {alias.asname or alias.name for node in imports for alias in node.names if alias.name in CLASSES}


def test_no_other_room_asks_which_class_an_operation_is():
    trees = {file: ast.parse(file.read_text()) for file in FILES}
    asked = {str(file.relative_to(ROOT)): found for file, tree in trees.items()
             if (found := known(tree).intersection(told_apart(tree)))}  # fmt: skip
    assert asked == {}


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(x, Gemm | Slice)",
        "match x:\n    case Gemm(src=y): pass",
        "type(x) is Gemm",
        "type(x) in (Gemm, int)",
    ],
)
def test_every_way_to_ask_is_seen(source):
    assert "Gemm" in set(told_apart(ast.parse(source)))


@pytest.mark.parametrize(("reads", "virtual"), [((Read.ACTIVE, Read.HALO), True), ((), True), ((Read.ACTIVE,), False)])
def test_not_row_by_row(reads, virtual):
    assert not of(reads, virtual).row_by_row


def test_row_by_row_is_told_from_what_is_read():
    assert of((Read.ACTIVE, Read.ACTIVE), True).row_by_row


def of(reads, virtual):
    class Some(Op):
        def operands(self):
            return tuple((self.out, how) for how in reads)

    Some.virtual = virtual
    return Some(Value("x", (), None))
