"""A checkpoint that is not of this run is refused before anything of it is copied."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from forcelaw.errors import StoreError
from forcelaw.models import build
from forcelaw.store.runs import RunDirectory
from forcelaw.training import checkpoint
from forcelaw.training.optimizer import ScheduleFreeAdamW
from tests.models.configs import small_config

STATE = {"step": 3}


@pytest.fixture
def saved(tmp_path):
    """(run, model, optimizer) with a checkpoint."""
    model = build(small_config("mpnn"), seed=0)
    optimizer = ScheduleFreeAdamW(model, lr=1e-3, steps=10, warmup=0)
    run = RunDirectory.create(tmp_path, {"seed": 0})
    checkpoint.save(run, model, optimizer, STATE)
    return run, model, optimizer


def rewrite(run, change, state=STATE):
    file = run.path / "last.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata=None if state is None else {"state": json.dumps(state)})


def flip(run, byte, bit=0):
    """Flip a bit of the checkpoint's file."""
    content = bytearray((run.path / "last.safetensors").read_bytes())
    content[byte] ^= 1 << bit
    (run.path / "last.safetensors").write_bytes(content)


def restored(run, model, optimizer):
    """What a checkpoint gives back: state, y, z, v, and the weights of the model."""
    state = checkpoint.load(run.path, optimizer, model)
    flat = [getattr(optimizer, name).clone() for name in ("y", "z", "v")]
    checkpoint.load_model(run.path, model)
    return json.dumps(state), torch.cat([*flat, *(p.detach().flatten() for p in optimizer.params)])


CHANGES = {
    "one number": lambda t: t.update(z=torch.ones(1)),
    "other type": lambda t: t.update(z=torch.ones(len(t["z"]), dtype=torch.int8)),
    "double": lambda t: t.update(z=t["z"].double()),
    "other shape": lambda t: t.update(z=t["z"][None]),
    "longer": lambda t: t.update(z=torch.cat([t["z"], t["z"]])),
    "missing": lambda t: t.pop("z"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_other_shapes_and_types_are_refused_before_anything_is_copied(saved, what) -> None:
    run, model, optimizer = saved
    rewrite(run, CHANGES[what])
    before = [getattr(optimizer, name).fill_(7.0).clone() for name in ("y", "z", "v")]
    with pytest.raises(StoreError):
        checkpoint.load(run.path, optimizer, model)
    for name, value in zip(("y", "z", "v"), before):
        assert torch.equal(getattr(optimizer, name), value)


@pytest.mark.parametrize("state", [None, {}, {"step": -1}, {"step": "3"}, [3]])
def test_a_state_without_a_step_is_refused(saved, state) -> None:
    run, model, optimizer = saved
    rewrite(run, lambda tensors: None, state)
    with pytest.raises(StoreError):
        checkpoint.load(run.path, optimizer, model)


def test_a_model_is_loaded_whole_or_not_at_all(saved) -> None:
    run, model, _ = saved
    name = next(iter(dict(model.named_parameters())))
    rewrite(run, lambda t: t.update({f"model.{name}": torch.ones(1)}))
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(StoreError):
        checkpoint.load_model(run.path, model)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))
    rewrite(run, lambda t: t.pop(f"model.{name}"))
    with pytest.raises(StoreError):
        checkpoint.load_model(run.path, model)


def test_a_flipped_bit_of_a_tensor_is_noticed_before_anything_is_copied(saved) -> None:
    run, model, optimizer = saved
    sound = (run.path / "last.safetensors").read_bytes()
    begin = 8 + int.from_bytes(sound[:8], "little")
    described = json.loads(sound[8:begin])
    for name in ("y", "z", "v", *(f"model.{name}" for name, _ in model.named_parameters())):
        flip(run, begin + described[name]["data_offsets"][1] - 4)  # lowest bit of the last number
        for each in ("y", "z", "v"):
            getattr(optimizer, each).fill_(7.0)
        with pytest.raises(StoreError, match=f"checksum mismatch: {name}"):
            restored(run, model, optimizer)
        if name in ("y", "z", "v"):
            assert all(bool((getattr(optimizer, n) == 7.0).all()) for n in ("y", "z", "v"))
        (run.path / "last.safetensors").write_bytes(sound)


def test_a_flipped_bit_anywhere_changes_nothing_or_is_noticed(saved) -> None:
    """Also in the header, which holds the state, the checksums, and where each tensor lies."""
    run, model, optimizer = saved
    sound = (run.path / "last.safetensors").read_bytes()
    state, numbers = restored(run, model, optimizer)
    header = 8 + int.from_bytes(sound[:8], "little")
    random = np.random.default_rng(0)
    places = [*range(0, header, 40), *random.integers(header, len(sound), 60)]
    noticed = 0
    for byte in places:
        flip(run, int(byte), int(random.integers(8)))
        try:
            found = restored(run, model, optimizer)
        except StoreError:
            noticed += 1
        else:
            assert found[0] == state and torch.equal(found[1], numbers), byte
        (run.path / "last.safetensors").write_bytes(sound)
    assert noticed > 0.9 * len(places)


def test_a_checkpoint_without_checksums_is_still_read(saved) -> None:
    run, model, optimizer = saved
    rewrite(run, lambda tensors: None)
    assert json.loads(restored(run, model, optimizer)[0]) == STATE
