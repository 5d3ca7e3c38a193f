"""One description of a figure, two renderers."""
