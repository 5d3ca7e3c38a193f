"""Damaged input of every kind ends in an error with a message, never in a traceback, a hang or a
pack with numbers that are not finite.

Each case takes sound files and damages one of them: flips, cuts, insertions, numbers out of all
range, copied and swapped pieces. Hypothesis chooses and shrinks. A few hundred cases run with the
other tests; the nightly form is

    FORCELAW_FUZZ=1000 python -m pytest tests/fuzz --timeout 7200 -o faulthandler_timeout=7300
"""

import os
import shutil
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forcelaw.errors import ForcelawError
from tests.fuzz.damage import WORDS, damaged
from tests.fuzz.inputs import INPUTS
from tests.packs import write_pack

CASES = int(os.environ.get("FORCELAW_FUZZ", "20"))  # of each kind of input
SPOT = st.floats(0, 1, exclude_max=True, allow_subnormal=False)
DAMAGE = st.one_of(
    st.tuples(st.just("flip"), SPOT, st.integers(0, 7)),
    st.tuples(st.just("byte"), SPOT, st.integers(0, 255)),
    st.tuples(st.just("cut"), SPOT, st.none()),
    st.tuples(st.just("remove"), SPOT, st.integers(1, 64)),
    st.tuples(st.just("insert"), SPOT, st.sampled_from(WORDS)),
    st.tuples(st.just("over"), SPOT, st.sampled_from(WORDS)),
    st.tuples(st.just("number"), SPOT, st.sampled_from(WORDS)),
    st.tuples(st.just("repeat"), SPOT, st.integers(1, 400)),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder of sound files for each kind."""
    root = tmp_path_factory.mktemp("sound")
    write_pack(root / "sound")
    for name, kind in INPUTS.items():
        (root / name).mkdir()
        kind.make(root / name)
    return root


@pytest.mark.timeout(max(120, 2 * CASES))
@pytest.mark.parametrize("name", INPUTS)
def test_damaged_input_is_an_error_and_nothing_worse(name, sound) -> None:
    kind, folder = INPUTS[name], sound / "work"
    kept = sorted(p.relative_to(sound / name) for p in (sound / name).rglob("*") if p.is_file())

    @settings(
        max_examples=CASES,
        derandomize=CASES < 100,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(which=st.integers(0, len(kept) - 1), damages=st.lists(DAMAGE, min_size=1, max_size=3))
    def case(which, damages) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sound / name, folder)
        victim = folder / kept[which]
        data = victim.read_bytes()
        for how in damages:
            data = damaged(data, how)
        victim.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of parsers
                kind.use(folder)
        except ForcelawError as error:
            assert error.where or error.remedy

    case()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", INPUTS)
def test_sound_input_is_read(name, sound) -> None:
    INPUTS[name].use(sound / name)
