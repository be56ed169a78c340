"""What a run leaves behind, changed in place or in layers."""
