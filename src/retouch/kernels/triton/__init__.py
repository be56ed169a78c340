"""The Triton backend: NVIDIA, AMD and Intel GPUs, and Triton's interpreter on the CPU.

One file per op, named as in `retouch.ops`. Row matrices are tensors `[rows, channels]` with unit channel
stride, index tables `Index`. Everything is computed in float32 (sums in float64) and rounded once, at the
store. A row's value depends on its own inputs only: tiles and the split of a sum follow from the weights'
shape and the architecture, never from the number of rows.
"""
