"""Run directories: plain files that any language reads."""
