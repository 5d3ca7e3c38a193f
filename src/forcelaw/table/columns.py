"""The columns of a table of runs: each is declared here and nowhere else.

Everything that needs their names follows from :data:`COLUMNS`: what is read from a run directory,
the types of the committed evidence, which column plays which role in a law, the headers of other
people's tables that are recognised, the words of error messages, and the page of the documentation
(:func:`markdown`). A new measured column is written by the training loop and declared here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import polars as pl

# What a column can be to a law, in the order in which columns are recognised and listed.
Role = Literal["n", "d", "u", "c", "h", "loss", "run", "group", "seed", "step", "status", "weight"]
_ERROR = " of structures changes forces by this share, after training"
# parts of nested headers that are of an evaluation, and last parts that mean nothing alone
_EVALUATION = "val", "valid", "validation", "eval", "evaluation", "test"
_NEEDS_MORE = (
    "size",
    "data",
    "samples",
    "examples",
    "group",
    "step",
    "steps",
    "layers",
    "run",
    "runs",
)
TRAINING_LOSS = "trainloss trainingloss losstrain finaltrainloss"


@dataclass(frozen=True)
class Column:
    """One column of a table of runs; a row is one evaluation.

    source: where a run directory holds the value. "spec.x.y" and "result.x.y" are entries of
    spec.json and result.json, "metrics.x" of a line of metrics.jsonl, "last.x.y" an entry of
    result.json that belongs to the last evaluation only; "" is derived from several of them.
    role: what a law takes the column for. spellings: headers that are recognised as this role, the
    preferred first, without case and without everything but letters and digits (:func:`plain`).
    weak_spellings: headers that may mean something else, taken after a look at their values.
    positive: a law needs a positive finite number in every row.
    """

    name: str
    type: type[str] | type[int] | type[float]
    meaning: str
    unit: str = ""
    source: str = ""
    role: Role | None = None
    spellings: str = ""
    weak_spellings: str = ""
    positive: bool = False

    @property
    def numeric(self) -> bool:
        """Whether laws calculate with it; a seed is a number too, but only a label."""
        return self.type is not str and self.role != "seed"


def _spec(name: str, kind: Any, source: str, meaning: str, **more: Any) -> Column:
    return Column(name, kind, meaning, source=f"spec.{source}", **more)


def _metric(name: str, kind: Any, unit: str, meaning: str, **more: Any) -> Column:
    return Column(name, kind, meaning, unit, f"metrics.{name}", **more)


_DECLARED = (
    Column(
        "run",
        str,
        "run: the checkpoints of one training share it",
        role="run",
        spellings="run runid runname runkey runs trial trialid experiment experimentid expname"
        " trajectory runuuid",
        weak_spellings="name modelid",
    ),
    _spec("study", str, "study", "name of the study"),
    _spec("kind", str, "kind", "grid, or sweep of learning rates"),
    _spec(
        "architecture",
        str,
        "label",
        "architecture",
        role="group",
        spellings="architecture arch group modeltype modelfamily family",
        weak_spellings="model modelname method",
    ),
    _spec("variant", str, "model.architecture", "name of the model class"),
    _spec("width", int, "model.width", "channels of the model"),
    _spec(
        "depth",
        int,
        "model.depth",
        "layers of the model",
        spellings="depth layers nlayers numlayers nlayer",
    ),
    _spec("seed", int, "seed", "seed", role="seed", spellings="seed randomseed rngseed"),
    _spec(
        "lr",
        float,
        "lr",
        "learning rate at this width",
        spellings="lr learningrate peaklr maxlr baselr",
    ),
    _spec("batch_atoms", int, "batch_atoms", "atoms in a step"),
    _spec("epochs", float, "epochs", "planned passes over the training set"),
    Column("device", str, "device that trained it", source="result.device"),
    Column("timing", str, "how its device-hours were measured", source="result.timing"),
    Column("status", str, "status", role="status", spellings="status state"),
    Column("final", bool, "last evaluation of a run that has ended"),
    _metric(
        "step",
        int,
        "",
        "training step",
        role="step",
        spellings="step steps globalstep iteration iterations iter trainingstep trainstep",
    ),
    _spec("steps", int, "steps", "planned steps"),
    _spec(
        "n",
        int,
        "n",
        "trainable parameters",
        role="n",
        positive=True,
        # a total count is preferred to one without the embedding
        spellings="n params nparams numparams parameters nparameters numparameters parametercount"
        " paramcount paramscount totalparams totalparameters modelparams modelparameters"
        " trainableparams trainableparameters modelsize modelsizeparams size nonembeddingparams"
        " paramsnonembedding nonembparams paramsnonemb paramsnoembed nnonembedding activeparams",
    ),
    _spec("n_nonembedding", int, "n_nonembedding", "parameters but for the embedding of elements"),
    _metric(
        "d",
        int,
        "atoms",
        "data seen in training (atoms, tokens), repeats counted",
        role="d",
        positive=True,
        spellings="d tokens ntokens numtokens tokencount tokensseen trainingtokens traintokens"
        " numtrainingtokens totaltokens tokenstotal datatokens data datasize datasetsize atoms"
        " natoms atomsseen samples nsamples examples numtokensseen consumedtokens"
        " samplesseen seensamples examplesseen seenexamples",
    ),
    _metric(
        "u",
        int,
        "atoms",
        "distinct data",
        role="u",
        positive=True,
        spellings="u unique uniquetokens uniquedata distinct distincttokens distinctatoms"
        " uniqueatoms nunique datauniquetokens datasetuniquetokens",
    ),
    _metric(
        "c",
        float,
        "FLOPs",
        "training compute (FLOPs)",
        role="c",
        positive=True,
        spellings="c flops flop trainingflop trainingflops trainflop trainflops totalflops"
        " totalflop flopstotal compute trainingcompute trainingcomputeflop trainingcomputeflops"
        " computeflops computebudget flopbudget",
    ),
    _metric(
        "h",
        float,
        "hours",
        "device-hours",
        role="h",
        positive=True,
        spellings="h hours gpuhours devicehours gpuh trainhours traininghours acceleratorhours",
    ),
    _metric(
        "loss",
        float,
        "eV/atom + eV/Angstrom",
        "loss",
        role="loss",
        positive=True,
        # a validation loss is preferred to a training loss
        spellings="loss valloss validationloss validloss evalloss testloss lossval lossvalidation"
        " losseval losstest finalvalloss finalloss lossnats nll crossentropy ce celoss vallosses"
        f" smoothedloss {TRAINING_LOSS}",
    ),
    _metric("loss_energy", float, "eV/atom", "energy term of the loss"),
    _metric("loss_forces", float, "eV/Angstrom", "force term of the loss"),
    _metric("energy_mae", float, "meV/atom", "mean energy error"),
    _metric("force_mae", float, "meV/Angstrom", "mean error of a force component"),
    _metric("stress_mae", float, "meV/Angstrom^3", "mean error of a component of the stress"),
    _spec("start", str, "start.run", "run whose weights it starts from"),
    _spec("start_c", float, "start.flops", "training FLOPs of those weights, not part of c"),
    _metric("kappa", float, "", "training FLOPs over 3 N D"),
    _metric("throughput", float, "atoms/s", "speed of training, of each device"),
    _metric("mean_degree", float, "edges/atom", "neighbours of an atom"),
    Column("rotation_error", float, "rotation" + _ERROR, source="last.symmetry.rotation"),
    Column("inversion_error", float, "inversion" + _ERROR, source="last.symmetry.inversion"),
    _spec("forces", str, "model.forces", "direct or conservative"),
    _spec("optimizer", str, "train.optimizer", "optimizer (none: schedule-free AdamW)"),
    _spec("decay", float, "train.decay", "share of the run over which the learning rate falls"),
    _spec("augment", bool, "train.augment", "training data are rotated at random"),
    _spec("symmetry_rotations", int, "train.symmetry_rotations", "copies in the symmetry loss"),
    _spec("symmetry_weight", float, "train.symmetry_weight", "weight of the symmetry loss"),
    _metric("epoch", int, "", "pass over the training set"),
    # the next three are means over the steps since the evaluation before
    _metric("train_loss", float, "eV/atom + eV/Angstrom", "loss on the training data"),
    _metric("grad_norm", float, "", "norm of the gradient"),
    _metric("clipped", float, "", "share of steps whose gradient was clipped"),
    Column("ended", int, "step at which the run ended"),
    Column("message", str, "why the run diverged or failed", source="result.message"),
)

# Name -> column, in the order of the committed evidence.
COLUMNS: dict[str, Column] = {column.name: column for column in _DECLARED}

# Other people's tables may have weights; never recognised, because a column of that name is seldom
# a statistical weight.
_WEIGHT = Column("weight", float, "weight of the point", role="weight")
ROLES: dict[str, Column] = {
    role: next(column for column in (*_DECLARED, _WEIGHT) if column.role == role)
    for role in get_args(Role)
}


def schema() -> dict[str, pl.DataType]:
    """The polars type of each column."""
    import polars as pl

    types = {str: pl.String(), int: pl.Int64(), float: pl.Float64(), bool: pl.Boolean()}
    return {name: types[column.type] for name, column in COLUMNS.items()}


def measured() -> list[str]:
    """Names of the columns that an evaluation writes into metrics.jsonl."""
    return [name for name, column in COLUMNS.items() if column.source == f"metrics.{name}"]


def plain(name: str) -> str:
    """A header with only its lower-case letters and digits."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def leaf(name: str) -> str:
    """The last part of a header that a configuration made (``model.n_params``, ``optim/lr``), as
    :func:`plain` spells it; "" where it says nothing of its own: a single letter, a word that needs
    what stands before it, or a part that belongs to an evaluation."""
    *before, last = re.split(r"[./]", name)
    word = plain(last)
    apart = not before or any(plain(part) in _EVALUATION for part in before)
    return "" if apart or len(word) < 2 or word in _NEEDS_MORE else word


def is_training_loss(name: str) -> bool:
    """Whether a header says that it is the loss on the training data."""
    return plain(name) in TRAINING_LOSS.split()


def markdown() -> str:
    """The columns as a table in Markdown."""
    lines = ["| column | type | unit | meaning | role in a law |", "|---|---|---|---|---|"]
    lines += [
        f"| `{c.name}` | {c.type.__name__} | {c.unit} | {c.meaning} | {c.role or ''} |"
        for c in COLUMNS.values()
    ]
    return "\n".join(lines)
