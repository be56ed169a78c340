"""PyTorch in: capturing a module, its arguments, and lowering its graph to rows."""
