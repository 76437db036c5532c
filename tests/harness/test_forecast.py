"""The forecast: a sum of terms fitted to records of this machine, and nothing where there are none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

import harness
from harness.forecast import PULL, Law, Place, spoken
from harness.results import Store

MakePack = Callable[..., Path]
Command = Callable[..., tuple[int, str, str]]
SETS = [("a", 10, 8100), ("b", 37, 3669), ("c", 47, 1692), ("d", 101, 3783), ("e", 196, 8041)]
GRID = [Place(name, classes, shots, test) for name, classes, test in SETS for shots in (1, 4, 16)]
LARGE = Place("large", 397, 16, 19850)
PLACES = st.builds(Place, st.just("a"), st.integers(2, 1000), st.sampled_from([1, 2, 4, 16]), st.integers(10, 50_000))
KNOWN = st.dictionaries(PLACES, st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=3), min_size=1, max_size=6)


@pytest.mark.parametrize("term", range(7))
def test_what_a_cost_grows_with_is_found_and_carried_to_a_larger_set(term: int) -> None:
    def truth(place: Place) -> float:
        return 0.02 + 3.0 * place.terms()[term] / LARGE.terms()[term]

    law = Law({place: [truth(place)] * 2 for place in GRID})
    assert law.seconds(LARGE) == pytest.approx(truth(LARGE), rel=0.1)  # the pull keeps a little back
    for place in (Place("small", 20, 2, 3000), Place("middle", 100, 8, 5000)):
        assert law.seconds(place) == pytest.approx(truth(place), rel=0.1)


def test_four_places_of_middle_size_tell_a_large_one_within_a_third() -> None:
    def truth(place: Place) -> float:
        support, test = place.classes * place.shots, place.test
        return 0.01 + 4e-3 * support + 2e-5 * support * place.classes + 5e-7 * test * place.classes

    law = Law({place: [truth(place)] for place in GRID if place.dataset in "cd" and place.shots != 4})
    for place in (LARGE, LARGE._replace(shots=4), Place("wide", 196, 16, 8041)):
        assert law.seconds(place) == pytest.approx(truth(place), rel=1 / 3)


@given(KNOWN)
def test_it_is_the_non_negative_least_squares_fit_of_relative_errors(known: Mapping[Place, Sequence[float]]) -> None:
    law = Law(known)
    rows = np.array([np.array(place.terms()) / np.mean(took) for place, took in known.items()])  # (P, 7)
    largest = rows.max(0)  # (7,)
    both = np.vstack([rows / largest, PULL * np.eye(7)])  # (P + 7, 7)
    aim = np.r_[np.ones(len(rows)), np.zeros(7)]  # (P + 7,)
    best = nnls(both, aim)[0]  # (7,)
    found = np.array(law.factors) * largest  # (7,)
    assert found == pytest.approx(best, abs=1e-3)


@given(KNOWN, PLACES, st.sampled_from(["classes", "shots", "test"]), st.integers(2, 5))
def test_more_of_anything_never_saves_time_and_no_time_is_negative(
    known: Mapping[Place, Sequence[float]], place: Place, what: str, times: int
) -> None:
    law, new = Law(known), place._replace(dataset="new")
    more = new._replace(**{what: times * getattr(new, what)})
    assert 0 < law.seconds(new) <= law.seconds(more)


@given(KNOWN)
def test_where_a_place_was_measured_its_mean_stands(known: Mapping[Place, Sequence[float]]) -> None:
    law = Law(known)
    assert all(law.seconds(place) == pytest.approx(np.mean(took)) for place, took in known.items())


def test_one_record_is_met_and_what_is_not_known_grows_with_the_sizes() -> None:
    law = Law({Place("a", 10, 4, 500): [2.0]})
    assert law.seconds(Place("new", 10, 4, 500)) == pytest.approx(2.0, rel=0.01)
    assert 2.0 < law.seconds(Place("new", 30, 4, 500)) < 2.0 * 3**2
    assert 2.0 < law.seconds(Place("new", 10, 16, 500)) < 2.0 * 4**2


@given(KNOWN, PLACES)
def test_a_slower_machine_takes_as_much_more_everywhere(known: Mapping[Place, Sequence[float]], place: Place) -> None:
    slower = Law({at: [100 * seconds for seconds in took] for at, took in known.items()})
    assert slower.seconds(place) == pytest.approx(100 * Law(known).seconds(place), rel=1e-6)


def test_a_record_of_no_time_at_all_is_no_trouble() -> None:
    law = Law({Place("a", 10, 1, 100): [0.0], Place("b", 20, 1, 100): [0.0]})
    assert law.seconds(Place("a", 10, 1, 100)) == 0.0
    assert 0 < law.seconds(Place("new", 15, 1, 100)) < 1e-5


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


def test_a_pack_whose_test_part_is_damaged_has_no_forecast_and_stops_no_plan(
    make_pack: MakePack, harness_command: Command
) -> None:
    folder = make_pack()
    words = ("run", "--methods", "ncm", "--datasets", "toy", "--shots", "1")
    harness_command(*words, "--seeds", 1)
    (folder / "test.safetensors").write_bytes(b"nothing")
    code, out, _ = harness_command(*words, "--seeds", "1,2", "--dry-run")
    assert code == 0 and "1 to compute" in out and "on this machine" not in out
