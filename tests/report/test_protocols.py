"""What the report says of learning rates swept at several sizes, and of other optimisers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl

from forcelaw.report import summary
from forcelaw.report.sections.sweep import figure, sweeps


def test_sweeps_at_several_sizes_are_told_apart(written: dict[str, Any]) -> None:
    """Each has its own best rate, and the figure a panel of rates against N."""
    analysis = written["analysis"]
    label = sweeps(analysis)[0].label
    mine = (pl.col("kind") == "sweep") & (pl.col("architecture") == label)
    more = analysis.frame.filter(mine).with_columns(
        n=pl.col("n") * 10, lr=pl.col("lr") * 0.5, run=pl.col("run") + "-10"
    )
    both = replace(analysis, frame=pl.concat([analysis.frame, more]))
    first, second = (one for one in sweeps(both) if one.label == label)
    assert second.n == 10 * first.n and second.best == 0.5 * first.best
    assert str(first.name) != str(second.name) and first.name.startswith(label)
    made = figure(both, sweeps(both))
    assert len(made.panels) == 2 and len(figure(analysis, sweeps(analysis)).panels) == 1
    chosen = made.panels[1].series[0]
    assert list(chosen.x) == [first.n, second.n]
    assert list(chosen.y) == [first.chosen, second.chosen]


def test_another_protocol_is_among_the_limits(written: dict[str, Any]) -> None:
    analysis = written["analysis"]
    assert not [text for text in summary.limits(analysis) if "protocol" in text]
    first, *rest = analysis.architectures
    changed = first.frame.with_columns(optimizer=pl.lit("adamw"), decay=pl.lit(1.0))
    other = replace(analysis, architectures=[replace(first, frame=changed), *rest])
    (text,) = (text for text in summary.limits(other) if "protocol" in text)
    assert text.startswith(f"{first.label}:") and "adamw" in text and "100%" in text


def test_gradient_forces_beside_direct_ones_are_among_the_limits(written: dict[str, Any]) -> None:
    analysis = written["analysis"]
    first, *rest = analysis.architectures
    for kind, number in (("direct", 0), ("conservative", 1)):
        columns = [
            replace(arch, frame=arch.frame.with_columns(forces=pl.lit(of)))
            for arch, of in ((first, kind), *((arch, "direct") for arch in rest))
        ]
        other = replace(analysis, architectures=columns)
        assert len([text for text in summary.limits(other) if "gradient" in text]) == number
