"""What may stand in one ranking, and what a refusal says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from harness.errors import NotComparable
from harness.pick import refuse_mixed, refuse_outdated
from harness.results import Store, cell_key, score
from harness.types import Identity, Result

Command = Callable[..., tuple[int, str, str]]


def record(
    method: str = "tip", seed: int = 1, *, data: str = "new", started: str = "2026", **changes: object
) -> Result:
    who = Identity(
        method=method, method_version="1", dataset="a", encoder="made-up", shots=16, seed=seed,
        selection="val-min4", prompts="single", split="pack",
    )  # fmt: skip
    who = msgspec.structs.replace(who, **changes)
    digests = {"split": data}
    return Result(
        key=cell_key(who, digests), status="ok", identity=who, digests=digests, test=score(700 + seed, 1000),
        provenance={"started": started},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"selection": "none"}, ("selection policies (none, val-min4)", "--selection val-min4", "--selection all")),
        ({"prompts": "cupl"}, ("prompt sets (cupl, single)", "--prompts cupl", "--prompts cupl,single")),
        ({"encoder": "other"}, ("encoders (made-up, other)", "--encoder made-up", "--encoder made-up,other")),
    ],
)
def test_a_mixture_is_refused_with_the_flags_that_solve_it(changes: dict[str, str], said: tuple[str, ...]) -> None:
    results = [record(), record(**changes)]
    with pytest.raises(NotComparable) as refused:
        refuse_mixed(results, ())
    assert all(text in str(refused.value) for text in (*said, "--allow-mixed"))
    refuse_mixed(results, changes)  # asked for
    refuse_mixed([record(), record(**changes, dataset="b")], ())  # each data set has one


def test_two_mixtures_are_told_at_once() -> None:
    with pytest.raises(NotComparable, match=r"selection policies \(.*\) and several encoders"):
        refuse_mixed([record(), record(encoder="other", selection="none")], ())


def test_what_chose_on_test_labels_is_no_mixture() -> None:
    refuse_mixed([record(), record(selection="oracle")], ())


def test_older_records_that_were_run_again_are_no_obstacle(tmp_path: Path) -> None:
    old = [record(seed=seed, data="old", started="2025") for seed in (1, 2)]
    new = [record(seed=seed) for seed in (1, 2)]
    refuse_outdated([*new, *old], tmp_path)


def test_older_records_that_nothing_replaces_are_refused_with_the_command_that_does(tmp_path: Path) -> None:
    old = [record("dac", seed, data="old", started="2025") for seed in (1, 2)]
    with pytest.raises(NotComparable) as refused:
        refuse_outdated([*old, record()], tmp_path)
    assert "harness run --methods dac --datasets a --shots 16 --seeds 1,2 --selection val-min4" in str(refused.value)
    with pytest.raises(NotComparable, match="dac on a: 2 records"):
        refuse_outdated([*old, record(), record("dac", 3)], tmp_path)


def test_an_older_failure_is_no_obstacle(tmp_path: Path) -> None:
    failed = msgspec.structs.replace(record("dac", data="old", started="2025"), status="failed", test=None)
    refuse_outdated([failed, record()], tmp_path)


def test_records_of_another_split_are_other_data(tmp_path: Path) -> None:
    with pytest.raises(NotComparable):
        refuse_outdated([record("dac", split="mine", started="2025"), record()], tmp_path)


@pytest.fixture
def mixed(home: Path) -> None:
    store = Store(Path("results"))
    for method in ("tip", "dac"):
        for seed in (1, 2, 3):
            for selection in ("val-min4", "none", "oracle"):
                store.write(record(method, seed, selection=selection))


@pytest.mark.usefixtures("mixed")
def test_the_command_refuses_with_7_unless_asked(harness_command: Command) -> None:
    code, out, err = harness_command("table")
    assert (code, out) == (7, "")
    assert len(err.strip().splitlines()) == 1
    assert "--selection all" in err
    for words in (
        ["--selection", "none"],
        ["--selection", "val-min4,oracle"],
        ["--selection", "none,val-min4"],
        ["--selection", "all"],
        ["--allow-mixed"],
    ):
        code, out, err = harness_command("table", "--json", *words)
        assert code == 0, err
        for row in json.loads(out)["rows"]:
            assert (row["rank"] is None) == (row["selection"] == "oracle")


@pytest.mark.usefixtures("mixed")
def test_all_policies_stand_side_by_side(harness_command: Command) -> None:
    rows = json.loads(harness_command("table", "--json", "--selection", "all")[1])["rows"]
    assert [(row["method"], row["selection"]) for row in rows] == [
        (method, policy) for method in ("dac", "tip") for policy in ("none", "val-min4", "oracle")
    ]


def test_a_damaged_record_is_told_the_rest_shown_and_the_code_6(home: Path, harness_command: Command) -> None:
    store = Store(Path("results"))
    store.write(record())
    (store.cells / "bad.json").write_text("{")
    code, out, err = harness_command("table", "--format", "csv")
    assert code == 6
    assert "tip" in out
    assert "bad.json" in err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--selection", "val-min5"], 5),
        (["--prompts", "many"], 5),
        (["--encoder", "other"], 5),
        (["--seeds", "9"], 5),
        (["--columns", "nonsense"], 2),
        (["--by", "moon"], 2),
    ],
)
def test_what_is_not_there_is_one_line_with_what_is(
    home: Path, harness_command: Command, words: list[str], code: int
) -> None:
    Store(Path("results")).write(record())
    found, out, err = harness_command("table", *words)
    assert (found, out) == (code, "")
    assert len(err.strip().splitlines()) == 1
    assert words[-1] in err
    assert "Known:" in err
