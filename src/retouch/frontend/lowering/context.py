"""What rules share: how they are registered, values, operands and the dense fallback."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.fx import Node
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from retouch.frontend.capture import Captured
from retouch.frontend.lowering.pending import PENDING, Joint
from retouch.ir.expr import Expr, Instr
from retouch.ir.geometry import Geometry, Grid
from retouch.ir.layout import Ref, axis, image, like, regrid
from retouch.ir.program import Op
from retouch.ir.value import Matrix, Value
from retouch.ops.dense import Arg, Dense, Lift, Strided
from retouch.ops.row_map import Concat, Map, Remap, Slice, deduplicate
from retouch.ops.shuffle import Shuffle, Unshuffle

ROW_DTYPES = (torch.float32, torch.bfloat16)
"""Types of rows that the kernels of every backend take."""


class NoRule(Exception):
    """The node has no expression in rows; the text says why."""


Item = Any
Rule = Callable[["Context", Node], Item]
RULES: dict[str, Rule] = {}


def rule(*targets: str) -> Callable[[Rule], Rule]:
    """Register a lowering rule for ATen overloads such as "conv2d.default"."""

    def register(function: Rule) -> Rule:
        for target in targets:
            RULES[f"aten.{target}"] = function
        return function

    return register


IDENTITIES = frozenset(
    f"aten.{name}"
    for name in ("clone.default", "contiguous.default", "alias.default", "detach.default", "lift_fresh_copy.default")
) | {"aten.dropout.default", "aten.feature_dropout.default", "aten.alias_copy.default", "aten.detach_.default"}


IN_ORDER = frozenset(
    f"aten.{name}"
    for name in ("view.default", "view.dtype", "_unsafe_view.default", "as_strided.default", "view_as_complex.default")
)
"""Operations whose result, or whether there is one, depends on the strides of the first argument."""


class Context:
    """State of one lowering: what each node became and the operations so far."""

    def __init__(self, captured: Captured, dtypes: Collection[torch.dtype]) -> None:
        self.captured, self.dtypes = captured, dtypes
        self.items: dict[Node, Item] = {}
        self.ops: list[Op] = []
        self.producers: dict[Value, Op] = {}
        self.constant: set[Value] = set()
        self.names: set[str] = set()
        self.grids: set[tuple[int, Grid]] = set()
        self.recomputed: set[Value] = set()

    # Operands of a node

    def arg(self, node: Node, position: int, name: str | None = None, default: Any = None) -> Any:
        """Raw argument of a node by position or keyword."""
        if position < len(node.args):
            return node.args[position]
        return node.kwargs.get(name, default) if name else default

    def option(self, node: Node, name: str, default: Any = None) -> Any:
        """A keyword argument of a node."""
        return node.kwargs.get(name, default)

    def item(self, argument: Any) -> Item:
        """What an argument became: Ref, Value, something pending, or the Python constant itself."""
        return self.items[argument] if isinstance(argument, Node) else argument

    def ref(self, argument: Any) -> Ref:
        """The argument as rows, with channels apart from positions."""
        item = self.item(argument)
        if not isinstance(item, Ref):
            raise NoRule("an operand has no grid")
        return self.regular(item)

    def parameter(self, argument: Any) -> Value | None:
        """A weight: a value that depends on the module's parameters only."""
        if argument is None:
            return None
        item = self.item(argument)
        if not isinstance(item, Value) or item not in self.constant:
            raise NoRule("a weight is computed from the inputs")
        return item

    def weight(self, argument: Any) -> Value:
        """A parameter that must be there."""
        found = self.parameter(argument)
        if found is None:
            raise NoRule("a weight is missing")
        return found

    def image(self, argument: Any) -> Ref:
        """The argument as rows of an image."""
        ref = self.ref(argument)
        if not ref.is_image:
            raise NoRule("the input is not an image (B, C, H, W)")
        return ref

    # New values and operations

    def value(
        self, node: Node, grid: Grid | None, batch: int, channels: int, dtype: torch.dtype | None = None
    ) -> Value:
        """A fresh value named after the node."""
        meta = node.meta.get("val")
        shape = tuple(meta.shape) if isinstance(meta, torch.Tensor) else ()
        found = dtype or (meta.dtype if isinstance(meta, torch.Tensor) else torch.float32)
        if grid:
            self.grids.add((batch, grid))
        return Value(self.unique(node.name), shape, found, grid, batch, channels)

    def unique(self, name: str) -> str:
        candidate, i = name, 1
        while candidate in self.names:
            candidate, i = f"{name}.{i}", i + 1
        self.names.add(candidate)
        return candidate

    def rows_like(self, node: Node, ref: Ref, channels: int | None = None) -> Value:
        value = ref.value
        return self.value(node, value.grid, value.batch, channels or value.channels)

    def add(self, op: Op) -> Value:
        """Append an operation; its value."""
        self.ops.append(op)
        self.producers[op.out] = op
        return op.out

    def dense_call(
        self, name: str, shape: Sequence[int], dtype: torch.dtype, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> Value:
        """A dense operation made by a rule; Refs and Values in `args` become its sources."""
        sources: list[Value | Ref] = []
        placed = pytree.tree_map_only((Ref, Value), lambda x: self._place(x, sources), args)
        return self._traced(
            Dense(Value(self.unique(name), tuple(shape), dtype), function, placed, {}, tuple(sources), None)
        )

    def _traced(self, op: Dense) -> Value:
        """Append a dense operation; its value, which depends on rows, on parameters only, or on inputs."""
        if any(isinstance(s, Ref) or s in self.recomputed for s in op.sources):
            self.recomputed.add(op.out)
        elif all(s in self.constant for s in op.sources):
            self.constant.add(op.out)
        return self.add(op)

    def permuted(self, value: Value, order: Sequence[int]) -> Value:
        """A dense value with its dimensions in another order."""
        shape = [value.shape[i] for i in order]
        return self.dense_call(value.name, shape, value.dtype, torch.ops.aten.permute.default, (value, list(order)))

    def dense_value(self, node: Node) -> Value:
        return self.value(node, None, 1, 0)

    def constant_call(self, name: str, shape: Sequence[int], function: Callable[..., Any], *args: Any) -> Value:
        """A float32 constant `function(*args)`, computed once."""
        return self.dense_call(name, shape, torch.float32, function, args)

    def map(
        self,
        node: Node,
        ref: Ref,
        expr: Expr,
        rows: Sequence[Value],
        vectors: Sequence[Matrix] = (),
        dtype: torch.dtype | None = None,
        heads: int = 1,
    ) -> Ref:
        """A pointwise operation in the arrangement of `ref`, for each head where an operand is of a head's width."""
        channels = ref.value.channels
        value = self.value(node, ref.value.grid, ref.value.batch, channels, dtype)
        operands: list[Value | Matrix] = [*rows, *vectors]
        widths = {x.channels for x in operands} - {1, channels}
        if widths:
            heads = channels // widths.pop()
        if widths or channels % heads:
            raise NoRule("operands of different widths")
        return Ref(self.add(deduplicate(Map(value, expr, tuple(rows), tuple(vectors), heads))), ref.dims)

    def remap(self, node: Node, ref: Ref, geometry: Geometry) -> Ref:
        """Rows moved by a one-tap geometry."""
        if geometry.is_identity:
            return ref
        value = self.value(node, geometry.outputs, ref.value.batch, ref.value.channels, ref.value.dtype)
        moved = regrid(ref, value)
        self.add(Remap(value, ref.value, geometry))
        return moved

    def channels(self, node: Node, ref: Ref, start: int, count: int) -> Ref:
        """Channels `start` to `start + count` of a layout whose channels stand in one dimension."""
        if start == 0 and count == ref.value.channels:
            return ref
        return like(ref, self.slice(node, ref.value, start, count))

    def slice(self, node: Node, source: Value, start: int, count: int) -> Value:
        """Channels `start` to `start + count` of a value; a slice of a slice reads the source."""
        producer = self.producers.get(source)
        if producer:
            source, first = producer.place()
            start += first
        value = self.value(node, source.grid, source.batch, count, source.dtype)
        return self.add(Slice(value, source, start))

    def slices(self, node: Node, source: Value, count: int) -> list[Value]:
        """The channels of a value in as many equal parts."""
        width = source.channels // count
        return [self.slice(node, source, part * width, width) for part in range(count)]

    def concat(self, node: Node, refs: Sequence[Ref]) -> Ref:
        """Channel concatenation, nested ones flattened."""
        parts: list[Value] = []
        for ref in refs:
            producer = self.producers.get(ref.value)
            parts.extend((producer.pieces() if producer else ()) or (ref.value,))
        value = self.rows_like(node, refs[0], sum(p.channels for p in parts))
        return like(refs[0], self.add(Concat(value, tuple(parts))))

    def channel_vector(self, value: Value, channels: int) -> Matrix:
        """A weight `[C]` as a vector operand."""
        return Matrix(value, value.shape, tuple(range(len(value.shape))), (1, channels))

    # Regular layouts

    def regular(self, ref: Ref) -> Ref:
        """`ref` with positions and channels in dimensions of their own, moving data where they are mixed."""
        if any(sum(a.axis == "c" for a in d) > 1 and len(d) == sum(a.axis == "c" for a in d) for d in ref.dims):
            raise NoRule("channels in another order")
        mixed = [d for d in ref.dims if {a.axis for a in d} & set("hw") and any(a.axis == "c" for a in d)]
        if not mixed:
            return ref
        grid = ref.value.map
        whole = {"h": grid.height, "w": grid.width}
        if any(a.size < whole[a.axis] for d in ref.dims for a in d if a.axis in "hw"):
            return self._space_to_depth(ref)
        return self._depth_to_space(ref)

    def _depth_to_space(self, ref: Ref) -> Ref:
        value, grid = ref.value, ref.value.map
        factor = {"h": 1, "w": 1}
        stride = {"h": 0, "w": 0}
        dims, rest = [], []
        whole = {"h": grid.height, "w": grid.width}
        for dim in ref.dims:
            kept: list[Any] = []
            for atom in dim:
                previous = kept[-1] if kept else None
                if atom.axis == "c" and previous in ("h", "w"):
                    factor[previous], stride[previous] = atom.size, atom.stride
                elif atom.axis in "hw":
                    if atom.size != whole[atom.axis]:
                        raise NoRule("a view mixes parts of positions with channels")
                    kept.append(atom.axis)
                else:
                    kept.append(atom)
                    rest += [atom] if atom.axis == "c" else []
            dims.append(kept)
        if len(rest) > 1 or (factor["h"] > 1 and factor["w"] > 1 and stride["h"] != stride["w"] * factor["w"]):
            raise NoRule("channels move to positions in an unsupported order")
        fy, fx = factor["h"], factor["w"]
        channels = rest[0].size if rest else 1
        out = Value(self.unique(value.name + ".shuffle"), (), value.dtype,
                    Grid(grid.height * fy, grid.width * fx), value.batch, channels)  # fmt: skip
        phase_stride = stride["w"] if fx > 1 else stride["h"]
        self.add(Shuffle(out, value, (fy, fx), phase_stride, rest[0].stride if rest else 1))
        sizes = {"h": grid.height * fy, "w": grid.width * fx}
        moved = [
            [
                a
                for x in d
                for a in (axis(x, sizes[x]) if isinstance(x, str) else axis("c", channels) if x.axis == "c" else (x,))
            ]
            for d in dims
        ]
        return Ref(out, tuple(tuple(d) for d in moved))

    def _space_to_depth(self, ref: Ref) -> Ref:
        value, grid = ref.value, ref.value.map
        inner = {a.axis: a for d in ref.dims for a in d if a.axis in "hw" and a.stride == 1}
        outer = {a.axis: a for d in ref.dims for a in d if a.axis in "hw" and a.stride > 1}
        if set(inner) != {"h", "w"} or any(outer[x].stride != inner[x].size for x in outer):
            raise NoRule("positions move to channels in an unsupported order")
        fy, fx = inner["h"].size, inner["w"].size
        order = [a.axis for d in ref.dims if any(a.axis == "c" for a in d) for a in d]
        strides = {"chw": (1, fy * fx), "hwc": (value.channels, 1)}.get("".join(order))
        if strides is None:
            raise NoRule("positions move to channels in an unsupported order")
        small = Grid(grid.height // fy, grid.width // fx)
        out = Value(
            self.unique(value.name + ".unshuffle"), (), value.dtype, small, value.batch, value.channels * fy * fx
        )
        self.add(Unshuffle(out, value, (fy, fx), *strides))
        sizes = {"h": small.height, "w": small.width}
        dims = []
        for dim in ref.dims:
            if any(a.axis == "c" for a in dim):
                dims.append(axis("c", out.channels))
            else:
                dims.append(tuple(a for x in dim for a in (axis(x.axis, sizes[x.axis]) if x.axis in "hw" else (x,))))
        return Ref(out, tuple(dims))

    # Dense values

    def dense(self, node: Node, reason: str = "") -> Item:
        """Run the node through PyTorch on whole tensors."""
        sources: list[Value | Ref] = []

        def place(argument: Node) -> Any:
            item = self.items[argument]
            if isinstance(item, PENDING):
                item = self.made(argument, "read")
            if not isinstance(item, Ref | Value):
                return torch.fx.node.map_aggregate(item, lambda x: self._place(x, sources))
            return self._place(item, sources)

        args = torch.fx.node.map_arg(node.args, place)
        kwargs = torch.fx.node.map_arg(node.kwargs, place)
        depends = any(isinstance(s, Ref) or s in self.recomputed for s in sources)
        result = self._result_layout(node, sources) if depends else None
        out = result.value if result else self.dense_value(node)
        if depends and not result:
            self.recomputed.add(out)
        constant = all(isinstance(s, Value) and s in self.constant for s in sources)
        macs = 0 if constant else count_macs(node)
        function = self._function(node)
        self.add(Dense(out, function, args, dict(kwargs), tuple(sources), result, reason, macs))
        if constant:
            self.constant.add(out)
        return result or out

    def made(self, node: Node, how: str) -> Item:
        """The tensor, computed densely, that a pending item stands for; `how` it is used, if that is a fallback."""
        item = self.items[node]
        reason = f"{item.what} are {how}" if how else ""
        if isinstance(item, Joint) and all(isinstance(part, Ref | Value) for part in item.parts):
            sources: list[Value | Ref] = []
            parts = [self._place(part, sources) for part in item.parts]
            out = self.dense_value(node)
            self.recomputed.add(out)
            self.items[node] = self.add(Dense(out, torch.cat, (parts, item.dim), {}, tuple(sources), None, reason))
        else:
            self.items[node] = self.dense(node, reason)
        return self.items[node]

    def forget(self, mark: int) -> None:
        """Take back the operations from number `mark` on."""
        for op in self.ops[mark:]:
            self.producers.pop(op.out, None)
        del self.ops[mark:]

    @staticmethod
    def _function(node: Node) -> Callable[..., Any]:
        """The function of a node, with the strides that it was captured with if it depends on them."""
        if not callable(node.target):
            raise NoRule(f"cannot run {node.target}")
        if str(node.target) not in IN_ORDER:
            return node.target
        return Strided(node.target, node.args[0].meta["val"].stride())  # type: ignore[union-attr]

    @staticmethod
    def _place(item: Any, sources: list[Value | Ref]) -> Any:
        if not isinstance(item, Ref | Value):
            return item
        sources.append(item)
        return Arg(len(sources) - 1)

    def _result_layout(self, node: Node, sources: Sequence[Value | Ref]) -> Ref | None:
        """Rows for the result of a fallback: an operand's arrangement, an image on a known grid, or one resized."""
        meta = node.meta.get("val")
        if not isinstance(meta, torch.Tensor) or meta.dtype not in self.dtypes or not meta.numel():
            return None
        shape = tuple(meta.shape)
        for source in sources:
            if isinstance(source, Ref) and source.shape == shape and source.is_whole:
                return Ref(self.value(node, source.value.grid, source.value.batch, source.value.channels), source.dims)
        images = [s for s in sources if isinstance(s, Ref) and s.is_image]
        resized = any(s.shape[:2] == shape[:2] for s in images)
        if len(shape) == 4 and (resized or (shape[0], Grid(shape[2], shape[3])) in self.grids):
            return image(self.value(node, Grid(shape[2], shape[3]), shape[0], shape[1]))
        return None

    def lift(self, node: Node, value: Value, template: Ref) -> Value:
        """A dense value of the shape of a map as rows in the arrangement of `template`.

        Where it is the same for all channels, or for all heads, the rows hold one channel, or those of one head.
        """
        target, sizes = template.value, list(template.shape)
        given = (1,) * (len(sizes) - len(value.shape)) + value.shape
        *outer, inner = template.channel_dims() or [0]
        spared = [i for i in outer if given[i] == 1] if len(outer) == sum(given[i] == 1 for i in outer) else []
        spared += [inner] if template.channel_dims() and given[inner] == 1 and len(spared) == len(outer) else []
        atoms = [a for i, d in enumerate(template.dims) for a in d if i not in spared]
        expand = tuple(1 if i in spared else n for i, n in enumerate(sizes))
        rank = {"b": 0, "h": 1, "w": 2, "c": 3}
        order = tuple(sorted(range(len(atoms)), key=lambda i: (rank[atoms[i].axis], -atoms[i].stride)))
        channels = math.prod(a.size for a in atoms if a.axis == "c")
        out = Value(self.unique(value.name + ".rows"), (), target.dtype, target.grid, target.batch, channels)
        split = tuple(a.size for a in atoms)
        return self.add(Lift(out, Matrix(value, expand, order, (target.rows, channels), target.dtype, split=split)))


UNCOUNTED: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3])  # type: ignore[no-untyped-call]
}
"""What PyTorch's counter does not know: attention without a mask on the CPU."""


def count_macs(node: Node) -> int:
    """Multiply-accumulates of one captured operation, from its shapes."""
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    try:
        with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
            node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception:  # an estimate for a report must not fail the lowering
        return 0
    return int(counter.get_total_flops()) // 2


def instr(*code: tuple[Any, ...]) -> Expr:
    """Shorthand for an expression."""
    return tuple(Instr(*c) for c in code)
