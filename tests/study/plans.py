"""What tests ask of a plan: the specifications of one entry, and a study with every sweep over."""

from forcelaw.study.plan import plan
from forcelaw.training.spec import summarise


def specs(planned, label, kind="grid"):
    """Specifications of one entry, runs that wait for a sweep included: by size, then seed."""
    runs = [r for r in (*planned.runs, *planned.waiting) if (r.label, r.kind) == (label, kind)]
    return sorted((r.spec for r in runs), key=lambda s: (s["n"], s["seed"], s["train_atoms"]))


def fresh(study, pack):
    """The plan of a study of which nothing is trained."""
    return plan(study, summarise(pack, cutoff=study.cutoff), {})
