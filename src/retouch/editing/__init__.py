"""What a person does: sessions on pictures, by diffusion models and generators."""
