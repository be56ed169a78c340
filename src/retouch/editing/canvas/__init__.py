"""Pictures of any size, edited through viewports that the model takes."""
