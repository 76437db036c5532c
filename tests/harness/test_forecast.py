"""The forecast: a power law from records of this machine, and nothing where there are none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness.forecast import Law, spoken
from harness.results import Store

MakePack = Callable[..., Path]
Command = Callable[..., tuple[int, str, str]]
SIZES = [("a", 10), ("b", 100), ("c", 400)]


@given(st.floats(1e-6, 1e-2), st.floats(0, 2.5), st.floats(0, 2.5))
def test_a_power_law_is_found_and_carried_to_other_sizes(a: float, p: float, q: float) -> None:
    def truth(classes: int, shots: int) -> float:
        return a * math.pow(classes, p) * math.pow(shots, q)

    law = Law({(name, c, s): [truth(c, s)] * 2 for name, c in SIZES[:2] for s in (1, 16)})
    for classes, shots in ((400, 8), (10, 4), (47, 2)):
        expected = math.log(max(truth(classes, shots), 1e-6))
        if truth(10, 1) >= 1e-6:  # less counts as a microsecond
            assert math.log(law.seconds("new", classes, shots)) == pytest.approx(expected, abs=1e-5)


def test_what_was_measured_stands_and_the_rest_is_in_between() -> None:
    law = Law({("a", 10, 1): [1.0, 3.0], ("a", 10, 4): [8.0], ("b", 40, 1): [2.0]})
    assert law.seconds("a", 10, 1) == 2.0  # the mean of that place
    assert law.seconds("b", 40, 1) == 2.0
    assert law.seconds("new", 10, 2) == pytest.approx(4.0)  # halfway in logarithms: q = 1
    assert law.seconds("new", 5000, 1) == pytest.approx(2.0)  # p = 0


def test_more_classes_never_save_time_and_what_is_not_known_grows_as_usual() -> None:
    falling = Law({("a", 10, 1): [4.0], ("b", 100, 1): [1.0]})
    assert falling.seconds("new", 1000, 1) == pytest.approx(2.0)  # flat, at the geometric mean
    single = Law({("a", 10, 4): [2.0]})
    assert single.seconds("new", 30, 4) == pytest.approx(6.0)
    assert single.seconds("new", 10, 16) == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.42, "0.4 s"), (80, "80 s"), (150, "2.5 min"), (1500, "25 min"), (9000, "2.5 h")]
)
def test_seconds_are_spoken_as_people_do(seconds: float, said: str) -> None:
    assert spoken(seconds) == said


def test_a_dry_run_tells_the_time_from_records_of_this_machine_alone(
    make_pack: MakePack, harness_command: Command
) -> None:
    make_pack()
    words = ("run", "--methods", "zero_shot,ncm", "--datasets", "toy", "--shots", "1")
    assert "on this machine" not in harness_command(*words, "--seeds", "1,2", "--dry-run")[1]
    err = harness_command(*words, "--seeds", 1)[2]
    assert "forecast" not in err
    took = {r.identity.method: r.provenance["seconds"] for r in harness.load().results}
    _, out, _ = harness_command(*words, "--seeds", "1,2,3", "--dry-run")
    assert f"About {spoken(2 * sum(took.values()))} on this machine, from 2 records." in out
    cells = json.loads(harness_command(*words, "--seeds", "2,3", "--dry-run", "--json")[1])
    assert [cell["forecast_s"] for cell in cells] == pytest.approx([took[cell["method"]] for cell in cells])
    half = harness_command(*words, "--methods", "zero_shot,tip", "--seeds", 2, "--dry-run")[1]
    assert "from 2 records, and 1 cells of methods that have none." in half
    other = harness_command(*words, "--seeds", 2, "--selection", "none", "--dry-run")[1]
    assert "on this machine" not in other  # another policy is another amount of work

    assert "; the forecast was" in harness_command(*words, "--seeds", 2)[2]
    store = Store(Path("results"))
    for result in store.load().results:
        machine = {**result.provenance["machine"], "cpu": "another"}
        store.write(msgspec.structs.replace(result, provenance={**result.provenance, "machine": machine}))
    assert "on this machine" not in harness_command(*words, "--seeds", "1,2,3", "--dry-run")[1]
