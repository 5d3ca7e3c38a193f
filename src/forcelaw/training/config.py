"""Options of the training loop, and the rules that follow from them. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PlainSerializer,
    model_validator,
)

from ..settings import Recorded

if TYPE_CHECKING:
    import numpy as np

BATCH_MOLECULES = 16  # structures a step, unless a study or a command says otherwise


def _pairs(value: Any) -> Any:
    """{type: weight}, or the text "type=weight,..." of an option, as sorted pairs."""
    if isinstance(value, str):
        words = [part.rpartition("=") for part in value.split(",") if part.strip()]
        value = {name.strip(): weight for name, _, weight in words}
    return sorted(value.items()) if isinstance(value, dict) else value


# pairs, because options are hashed; written as a mapping
ConfigWeights = Annotated[
    tuple[tuple[str, NonNegativeFloat], ...],
    BeforeValidator(_pairs, json_schema_input_type=dict[str, float]),
    PlainSerializer(dict),
]


class TrainOptions(Recorded):
    """How to train; the same for every architecture of a study. Extra keys are errors.

    The keys of ``train`` in a study, and options of ``forcelaw train`` under the same names.
    """

    batch_molecules: int | None = Field(
        None, ge=1, description=f"structures a step (default: {BATCH_MOLECULES})"
    )
    batch_atoms: int | None = Field(None, ge=1)
    """instead: as many structures as fit into that many atoms"""
    warmup: int = Field(100, ge=0, description="steps of linear warm-up; at most 5% of the run")
    clip: float | None = Field(100.0, gt=0)
    """gradient norm above which gradients are scaled down"""
    optimizer: Literal["schedule_free", "adamw", "sgd"] = "schedule_free"
    """schedule-free AdamW, or AdamW or SGD with momentum as torch has them, without any average"""
    beta1: float = Field(0.9, gt=0, lt=1, description="momentum")
    beta2: float = Field(0.999, gt=0, lt=1)
    """decay of Adam's second moment; 0.99 is steadier where runs spike"""
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of AdamW")
    decay: float = Field(0.0, ge=0, le=1)
    """share of the run, at its end, over which the learning rate falls to zero (default:
    none, so that any step is a fair stopping point)"""
    decay_shape: Literal["linear", "cosine"] = "linear"
    """how the learning rate falls; cosine with decay 1 is the usual schedule"""
    average_power: float = Field(0.0, ge=0)
    """step k counts k^P in the average of the weights (schedule-free's r); 8 goes with decay"""
    augment: bool = False
    """a fresh random rotation of every structure at every step"""
    symmetry_rotations: int = Field(0, ge=0, le=64)
    """rotated copies of every structure a step on which the symmetry loss is measured; M copies
    make a step M + 1 times as expensive"""
    symmetry_weight: float = Field(1.0, gt=0, description="weight of the symmetry loss")
    symmetry_penalty: Literal["square", "norm", "latent"] = "square"
    """how an asymmetry is penalised: of outputs, as a square or as a norm (which can hold a model
    at zero), or of the states that the energy is read from, through a learned map of their rotation
    (TransIP's)"""
    precision: Literal["float32", "tf32", "bf16", "float64"] = "float32"
    """number format of the training step"""
    evaluations: int = Field(20, ge=2)
    """evaluations, at steps equally spaced in the logarithm"""
    first_evaluation: int = Field(50, ge=1, description="step of the first evaluation")
    evaluation_rotations: int = Field(0, ge=0, le=120)
    """test-time averaging: losses are those of predictions averaged over that many rotations; 12,
    24 or 60 are a group (default: none)"""
    validation_structures: int = Field(1000, ge=1)
    """structures of the fixed validation set that are used"""

    energy_weight: float = Field(1.0, ge=0, description="of the energy term in what is minimised")
    forces_weight: float = Field(1.0, ge=0, description="of the force term")
    stress_weight: float = Field(0.0, ge=0)
    """of the virial term, eV/atom; needs data with stress; models with direct forces get a head for
    it (default: 0, stress is not used)"""
    loss: Literal["norm", "square", "huber"] = "norm"
    """what of an error is minimised: its size (per atom of a structure; of an atom's force vector),
    the square of that, or Huber's, which is the size beyond huber_delta and a parabola below.
    Evaluations give the size, whatever is minimised"""
    huber_delta: float = Field(0.01, gt=0)
    """where Huber's loss turns, in eV/atom and in eV/Angstrom"""
    energy_weight_end: float | None = Field(None, ge=0)
    """the weight moves to this one, linearly over the run"""
    forces_weight_end: float | None = Field(None, ge=0, description="likewise")
    stress_weight_end: float | None = Field(None, ge=0, description="likewise")

    config_weights: ConfigWeights | None = Field(None, title="TYPE=W,...")
    """weights of structures by config type in what is minimised, as {bulk: 2, surface: 0.5};
    others count 1 (default: all do)"""

    LATER: ClassVar[tuple[str, ...]] = (
        *("energy_weight", "forces_weight", "stress_weight", "decay", "average_power"),
        *("energy_weight_end", "forces_weight_end", "stress_weight_end", "config_weights"),
        *("optimizer", "decay_shape", "evaluation_rotations", "loss", "huber_delta"),
    )

    @property
    def stress(self) -> bool:
        """Whether the stress is trained on."""
        return bool(self.stress_weight or self.stress_weight_end)

    @property
    def latent(self) -> bool:
        """Whether the symmetry loss is one of states, for which models have a network."""
        return self.symmetry_rotations > 0 and self.symmetry_penalty == "latent"

    @model_validator(mode="after")
    def _some_weight(self) -> TrainOptions:
        if not (self.energy_weight or self.forces_weight or self.stress_weight):
            raise ValueError("all weights of the loss are zero at the start: nothing to minimise")
        if self.config_weights and self.symmetry_rotations:
            raise ValueError("config_weights do not go with symmetry_rotations")
        if self.latent and self.stress:
            raise ValueError("symmetry_penalty latent does not go with stress_weight")
        return self

    @model_validator(mode="after")
    def _loss(self) -> TrainOptions:
        default = type(self).model_fields["huber_delta"].default
        if self.loss != "huber" and self.huber_delta != default:
            raise ValueError("huber_delta goes with loss huber only")
        return self

    @model_validator(mode="after")
    def _optimizer_and_schedule(self) -> TrainOptions:
        if self.optimizer != "schedule_free" and self.average_power:
            raise ValueError("average_power goes with optimizer schedule_free only")
        if self.optimizer == "sgd" and self.weight_decay:
            raise ValueError("weight_decay goes with schedule_free and adamw only")
        if self.decay_shape != "linear" and not self.decay:
            raise ValueError("decay_shape needs decay: the share of the run over which it falls")
        return self

    @property
    def protocol(self) -> str:
        """What differs from schedule-free AdamW at a constant rate and the loss of the study, in
        words; empty if nothing."""
        names = {"schedule_free": "schedule-free AdamW", "adamw": "AdamW", "sgd": "SGD"}
        words = [names[self.optimizer]]
        if self.decay:
            words.append(f"{self.decay_shape} decay over the last {100 * self.decay:g}%")
        if self.loss != "norm":
            words.append({"square": "squared errors", "huber": "Huber loss"}[self.loss])
        return ", ".join(words) if words != [names["schedule_free"]] else ""

    @model_validator(mode="before")
    @classmethod
    def _default_batch(cls, value: Any) -> Any:
        batches = ("batch_molecules", "batch_atoms")
        if isinstance(value, dict) and all(value.get(key) is None for key in batches):
            return {**value, "batch_molecules": BATCH_MOLECULES}
        return value

    @model_validator(mode="after")
    def _one_batch_rule(self) -> TrainOptions:
        if (self.batch_molecules is None) == (self.batch_atoms is None):
            raise ValueError("give batch_molecules or batch_atoms, and not both")
        return self


def cost_factor(forces: str, symmetry_rotations: int) -> float:
    """Training FLOPs over those of a step with direct forces and no symmetry loss, which is three
    forward passes.

    Gradient forces take six: each product of the forward pass and of the pass for the forces is
    differentiated twice (tests/training/test_cost.py has the counter's figures). Each rotated
    copy is one structure more.
    """
    return (2.0 if forces == "conservative" else 1.0) * (1 + symmetry_rotations)


def weights_table(steps: int, options: TrainOptions) -> np.ndarray | None:
    """(steps, 3): weights of the energy, force and virial terms at each step; None where they are
    1, 1, 0 throughout, which is the loss of the protocol."""
    import numpy as np

    names = ("energy_weight", "forces_weight", "stress_weight")
    start = [getattr(options, name) for name in names]
    end = [getattr(options, f"{name}_end") for name in names]
    end = [first if last is None else last for first, last in zip(start, end)]
    if start == end == [1.0, 1.0, 0.0]:
        return None
    return np.linspace(start, end, steps)


def evaluation_steps(steps: int, options: TrainOptions) -> list[int]:
    """Steps after which the run is evaluated: logarithmically spaced, fixed before training, always
    including the last."""
    import numpy as np  # here, so that importing the options is quick

    first = min(options.first_evaluation, steps)
    points = np.geomspace(first, steps, options.evaluations)
    return sorted({int(p) for p in np.rint(points)} | {steps})


def warmup_steps(steps: int, options: TrainOptions) -> int:
    """Warm-up of a run: the option, or 5% of the run if that is less."""
    return min(options.warmup, max(1, steps // 20)) if options.warmup else 0
