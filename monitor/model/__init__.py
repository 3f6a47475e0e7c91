"""The model: one shared transformer encoder with a head for each task, its checkpoints, and the scorer."""
