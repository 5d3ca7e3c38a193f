"""Data: structures with labels, readers, packs, splits, reference energies and generation."""
