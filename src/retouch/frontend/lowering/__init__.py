"""From the captured ATen graph to rows operations: one small rule per ATen op, by family.

`lower` is the driver. A rule takes the context and the graph node and returns what the node becomes: a
layout of rows (`Ref`), a dense `Value`, or a list of them. A rule that cannot express its node raises
`NoRule` with the reason; the node then runs densely and `explain()` shows the reason.
"""

from retouch.frontend.lowering import (
    activations,
    attention,
    conv,
    logic,
    norm,
    pointwise,
    products,
    reductions,
    resize,
    views,
)
from retouch.frontend.lowering.driver import lower

__all__ = [
    "activations", "attention", "conv", "logic", "lower", "norm", "pointwise", "products", "reductions", "resize",
    "views",
]  # fmt: skip
