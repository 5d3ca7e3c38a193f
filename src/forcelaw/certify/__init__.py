"""A certificate of an architecture: what it really does, measured in about a minute on a CPU."""

from .lines import certify

__all__ = ["certify"]
