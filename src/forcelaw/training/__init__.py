"""Training: one loop, one loss, one optimiser for every architecture."""
