"""Published tables of training runs, read from copies of their repositories; nothing of them is
kept here. ``fetch`` clones what is missing; a folder of archives works as well.

Each table is one architecture on one data set, in the columns run, n, d, c, loss (and u, step).
SPLIT was drawn before any forecast of a table was looked at: the parity of the first byte of
sha256(key) of its source, but for ``farseer`` and ``forcelaw``, which had been looked at before.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

TUNE, HELD_BACK = "tune", "held back"

# source key -> repository, kind of runs, split
SOURCES: dict[str, tuple[str, str, str]] = {
    "chinchilla": ("mcleish7/gemstone-scaling-laws", "language", TUNE),
    "scalefit": ("Open-Athena/scaling-law-analysis", "language", TUNE),
    "gemstones": ("mcleish7/gemstone-scaling-laws", "language, shapes", TUNE),
    "steplaw": ("step-law/steplaw", "language, mixture of experts", TUNE),
    "misfitting": ("hadasah/scaling_laws", "language, sweeps", TUNE),
    "mammut": ("LAION-AI/scaling-laws-for-comparison", "segmentation from image-text", TUNE),
    "farseer": ("PlanarG/active-sl", "language", TUNE),
    "forcelaw": ("", "force fields", TUNE),
    "gadre": ("mlfoundations/scaling", "language, over-trained, transfer", HELD_BACK),
    "kempner": ("KempnerInstitute/loss-to-loss-notebooks", "language, code, proofs", HELD_BACK),
    "routing": ("google-deepmind/scaling_laws_for_routing", "mixture of experts", HELD_BACK),
    "muennighoff": ("PlanarG/active-sl", "language, repeated data", HELD_BACK),
    "marin": ("Open-Athena/scaling-law-analysis", "language", HELD_BACK),
    "llama_3": ("Open-Athena/scaling-law-analysis", "language", HELD_BACK),
    "openclip": ("LAION-AI/scaling-laws-openclip", "image-text", HELD_BACK),
}
Tables = Iterator[tuple[str, pl.DataFrame]]


def fetch(folder: Path) -> None:
    """Clones every repository that is not in ``folder`` yet."""
    for repository in sorted({repository for repository, _, _ in SOURCES.values() if repository}):
        place = folder / repository.replace("/", "+")
        if not place.exists():
            url = f"https://github.com/{repository}"
            subprocess.run(["git", "clone", "--depth", "1", url, str(place)], check=True)


def tables(folder: Path, split: str | None = None) -> Iterator[tuple[str, str, str, pl.DataFrame]]:
    """(split, source, name, table) of every table whose repository is in ``folder``."""
    for key, (repository, _, mine) in SOURCES.items():
        if split in (None, mine):
            root = folder / repository.replace("/", "+") if repository else Path("results")
            if not root.exists():
                print(f"{key}: no copy of {repository}, left out", file=sys.stderr)
                continue
            for name, frame in READERS[key](root):
                yield mine, key, name, frame


def _csv(path: Path) -> pl.DataFrame:
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    return pl.read_csv(io.BytesIO(content), infer_schema_length=None, null_values=["", "nan"])


def _runs(frame: pl.DataFrame, **columns: str | pl.Expr) -> pl.DataFrame:
    """A table with the columns named; a row is a run where there is no run, C is 6 N D where there
    is no C."""
    made = {name: pl.col(c) if isinstance(c, str) else c for name, c in columns.items()}
    run = made.pop("run", pl.int_range(pl.len()))
    out = frame.select(
        run.cast(pl.String).alias("run"),
        *(one.cast(pl.Float64).alias(name) for name, one in made.items()),
    )
    if "c" not in out.columns:
        out = out.with_columns(c=6 * pl.col("n") * pl.col("d"))
    return out.drop_nulls().filter(pl.all_horizontal(pl.col("n", "d", "c", "loss") > 0))


def _best(frame: pl.DataFrame, *keys: str, loss: str = "loss") -> pl.DataFrame:
    """The row of the lowest loss of each size and length: the best of a sweep."""
    return frame.drop_nulls(loss).sort(loss).group_by(keys, maintain_order=True).first()


def _chinchilla(root: Path) -> Tables:
    frame = _csv(root / "data/epoch_chinchilla_svg_extracted_data.csv")
    size, flops = (next(c for c in frame.columns if word in c) for word in ("Size", "FLOP"))
    d = pl.col(flops) / (6 * pl.col(size))
    yield "massivetext", _runs(frame, n=size, d=d, c=flops, loss="loss")


def _isoflops(source: str) -> Callable[[Path], Tables]:
    def read(root: Path) -> Tables:
        frame = _csv(root / "data/isoflops/transform/isoflops.csv").filter(
            (pl.col("source") == source) & (pl.col("condition").fill_null("") != "exp_loss")
        )
        for (name,), part in frame.group_by("dataset", maintain_order=True):
            yield str(name), _runs(part, n="params", d="tokens", c="budget", loss="loss")

    return read


def _gemstones(root: Path) -> Tables:
    for name in ("dclm", "fineweb_edu"):
        rows = []
        for path in sorted((root / f"other_validation_losses/{name}_losses").glob("*.json")):
            width, depth = map(int, re.findall(r"(\d+)x(\d+)", path.stem)[0])
            # attention with half as many keys and values, gated MLP of 4, no embedding
            n = depth * (width * 2 * width + width * width + 12 * width * width)
            for step, loss in json.loads(path.read_text()).items():
                if step.startswith("step_"):
                    rows.append((path.stem, n, int(step[5:]) * 2**22, loss))
        frame = pl.DataFrame(rows, schema=["run", "n", "d", "loss"], orient="row")
        yield name, _runs(frame, run="run", n="n", d="d", loss="loss")


def _steplaw(root: Path) -> Tables:
    for name, size in (("dense", "N"), ("moe", "Na")):
        frame = _csv(root / f"data/{name}_lr_bs_loss.csv")
        keys = (size, "D") if name == "dense" else ("N", size, "D")
        best = _best(frame, *keys, loss="smooth loss")
        yield name, _runs(best, n=size, d="D", loss="smooth loss")


def _misfitting(root: Path) -> Tables:
    last = _csv(root / "data/scaling_results_last_ckpt_only.csv")
    yield "best rates", _runs(_best(last, "N", "D"), n="N", d="D", c="C", loss="loss")
    every = _csv(root / "data/scaling_results.csv")
    keys = [pl.col(name).cast(pl.String) for name in ("model", "total_steps", "peak_lr", "sweep")]
    yield "trajectories", _runs(every, run=pl.concat_str(keys), n="N", d="D", c="C", loss="loss")


def _mammut(root: Path) -> Tables:
    frame = pl.read_parquet(root / "scaling_laws/data/segmentation_results.parquet")
    frame = frame.filter(pl.col("epoch") == pl.col("total_epochs")).with_columns(
        loss=1 - pl.col("miou")
    )
    for name in ("clip", "mammut"):
        part = _best(
            frame.filter(pl.col("namespace") == name),
            "model_mparams",
            "total_epochs",
            "samples_seen",
        )
        part = _best(part, "model_mparams", "samples_seen")
        n = pl.col("model_mparams") * 1e6
        yield name, _runs(part, n=n, d="samples_seen", c=pl.col("gflops") * 1e9, loss="loss")


def _scalebench(name: str, **columns: str) -> Callable[[Path], Tables]:
    def read(root: Path) -> Tables:
        files = sorted((root / f"benchmark/dataset/{name}_scaling_law").glob("*.parquet"))
        yield name, _runs(pl.concat([pl.read_parquet(one) for one in files]), **columns)

    return read


def _forcelaw(root: Path) -> Tables:
    frame = pl.read_parquet(root / "symmetry_ladder/runs.parquet")
    frame = frame.filter((pl.col("kind") == "grid") & (pl.col("status") == "finished"))
    frame = frame.filter(pl.col("step") >= 400)
    for (name,), part in frame.group_by("architecture", maintain_order=True):
        yield str(name), _runs(part, run="run", n="n", d="d", c="c", loss="loss")


def _gadre(root: Path) -> Tables:
    """Three training sets; the losses on C4 and on code."""
    losses = {"c4": "c4_val", "code": "paloma_dolma_100_programing_languages"}
    rows = []
    for path in sorted((root / "exp_data/models").glob("*.json")):
        run = json.loads(path.read_text())
        h = run["hyperparameters"]
        for loss, place in losses.items():
            found = [r["loss"] for r in run["results"] if place in r["val_data"][0]]
            if found:
                table = f"{run['dataset_name']}, {loss}"
                rows.append((table, h["params"], h["tokens"], float(found[0])))
    frame = pl.DataFrame(rows, schema=["table", "n", "d", "loss"], orient="row")
    for (name,), part in frame.group_by("table", maintain_order=True):
        yield str(name), _runs(part, n="n", d="d", loss="loss")


def _kempner(root: Path) -> Tables:
    frame = _csv(root / "data/sweep.csv")
    for (name,), part in frame.group_by("data", maintain_order=True):
        c = pl.col("iso_flop")
        yield str(name), _runs(part, n="params", d="tokens", c=c, loss="val_loss")


def _routing(root: Path) -> Tables:
    frame = _csv(root / "data/curves.csv.gz").filter(
        (pl.col("seed") == 42)
        & (pl.col("k") == 1)
        & (pl.col("step") > 0)
        & (pl.col("routing_frequency") == 0.5)
    )
    for router, experts in (
        ("Dense", 1),
        ("S-Base", 8),
        ("S-Base", 64),
        ("Hash", 64),
        ("RL-R", 64),
    ):
        part = frame.filter((pl.col("router_type") == router) & (pl.col("num_experts") == experts))
        d, c = pl.col("step") * 128 * 2048, pl.col("step") * pl.col("flops_per_step")
        yield (
            f"{router} {experts}",
            _runs(
                part, run="hyper_id", n="dense_parameter_count", d=d, c=c, loss="loss_validation"
            ),
        )


def _openclip(root: Path) -> Tables:
    sizes = _csv(root / "arch_info.csv").select(arch="model", mparams="mparams")
    frame = _csv(root / "zeroshot_results.csv").join(sizes, on="arch")
    frame = frame.with_columns(loss=1 - pl.col("acc1"))
    for task in ("imagenet1k", "vtab"):
        part = frame.filter(
            pl.col("upstream_dataset").str.contains("LAION")
            & (pl.col("downstream_dataset") == task)
        )
        if len(part):
            yield (
                task,
                _runs(
                    _best(part, "arch", "samples_seen"),
                    n=pl.col("mparams") * 1e6,
                    d="samples_seen",
                    c=pl.col("gmacs_total") * 1e9 * 6,
                    loss="loss",
                ),
            )


READERS: dict[str, Callable[[Path], Tables]] = {
    "chinchilla": _chinchilla,
    "scalefit": _isoflops("ml_scalefit"),
    "gemstones": _gemstones,
    "steplaw": _steplaw,
    "misfitting": _misfitting,
    "mammut": _mammut,
    "farseer": _scalebench("farseer", n="N", d="D", loss="loss"),
    "forcelaw": _forcelaw,
    "gadre": _gadre,
    "kempner": _kempner,
    "routing": _routing,
    "muennighoff": _scalebench(
        "data_constrained", n="params", d="tokens", u="unique_tokens", loss="loss"
    ),
    "marin": _isoflops("marin_202603"),
    "llama_3": _isoflops("llama_3"),
    "openclip": _openclip,
}
