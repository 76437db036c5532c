"""The store keeps what it is given, notices every change, and never lets one bad record hide the others."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness
from harness.errors import Corrupt, Missing, UsageError
from harness.results import Store, cell_key, read_record, schema, score
from harness.types import Identity, Result


def identity(**changes: object) -> Identity:
    base = Identity(
        method="tip", method_version="1", dataset="toy", encoder="made-up", shots=16, seed=1,
        selection="val-min4", prompts="single", split="pack", overrides={},
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def record(correct: int = 7, total: int = 10, **changes: object) -> Result:
    who = identity(**changes)
    return Result(key=cell_key(who, {"weights": "w"}), status="ok", identity=who, digests={"weights": "w"},
                  test=score(correct, total))  # fmt: skip


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@settings(max_examples=50, deadline=None)
@given(
    correct=st.integers(0, 10_000),
    extra=st.integers(0, 10_000),
    values=st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, correct: int, extra: int, values: dict[str, float]
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    written = store.write(msgspec.structs.replace(record(correct, correct + extra + 1), hyperparameters=values))
    assert store.get(written.key) == written
    assert store.load().results == [written]


@given(st.permutations(["weights", "split", "prompts", "shots"]))
def test_a_key_does_not_depend_on_the_order_of_digests(names: list[str]) -> None:
    assert cell_key(identity(), {name: name for name in names}) == cell_key(identity(), {n: n for n in sorted(names)})


@pytest.mark.parametrize("changes", [{"seed": 2}, {"shots": 8}, {"method_version": "2"}, {"overrides": {"alpha": 1.0}},
                                     {"selection": "none"}, {"encoder": "other"}])  # fmt: skip
def test_a_key_changes_with_every_part_of_the_identity(changes: dict[str, object]) -> None:
    assert cell_key(identity(**changes), {}) != cell_key(identity(), {})


def test_writing_the_same_cell_again_replaces_its_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(record(7))
    store.write(record(8))
    assert [r.test.correct for r in store.load().results if r.test] == [8]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "fine"}, "checksum"),
        ({"test": {"correct": 9, "total": 10, "accuracy": 90.0, "per_class_accuracy": None}}, "checksum"),
        ({"checksum": ""}, "checksum"),
        ({"schema": "other/1"}, "schema"),
    ],
)
def test_a_changed_record_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    store = Store(tmp_path)
    path = store.cells / f"{store.write(record()).key}.json"
    edit(path, **changes)
    with pytest.raises(Corrupt, match=said) as told:
        read_record(path)
    assert str(path) in str(told.value)


@pytest.mark.parametrize("change", [{"unknown_field": 1}, {"test": {"correct": 11, "total": 10, "accuracy": 110.0}},
                                    {"test": {"correct": 5, "total": 10, "accuracy": 60.0}},
                                    {"test": {"correct": "many", "total": 10, "accuracy": 60.0}}])  # fmt: skip
def test_impossible_numbers_and_unknown_fields_are_refused_even_with_a_good_checksum(
    tmp_path: Path, change: dict[str, object]
) -> None:
    from harness.results import _checksum

    store = Store(tmp_path)
    path = store.cells / f"{store.write(record()).key}.json"
    edit(path, **change)
    edit(path, checksum=_checksum(json.loads(path.read_text())))
    with pytest.raises(Corrupt):
        read_record(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_truncated_or_flipped_record_is_ever_read_as_another_result(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    written = store.write(record())
    path = store.cells / f"{written.key}.json"
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 3))]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(raw))
    try:
        assert read_record(path) == written  # a flip in white space changes nothing
    except (Corrupt, UsageError):
        pass


def test_a_damaged_record_is_named_by_load_and_set_aside_by_get(tmp_path: Path) -> None:
    store = Store(tmp_path)
    good, bad = store.write(record(seed=1)), store.write(record(seed=2))
    path = store.cells / f"{bad.key}.json"
    path.write_text("{")
    loaded = store.load()
    assert loaded.results == [good]
    assert len(loaded.problems) == 1
    assert str(path) in loaded.problems[0]
    assert store.get(bad.key) is None
    assert not path.exists()
    assert store.load().problems == []
    assert len(list(store.cells.glob("*damaged*"))) == 1  # kept, to be looked at


def test_a_record_of_a_newer_version_asks_for_an_upgrade_and_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.cells / f"{store.write(record()).key}.json"
    edit(path, schema="harness-result/2")
    with pytest.raises(UsageError, match="Upgrade"):
        store.load()
    with pytest.raises(UsageError, match="Upgrade"):
        store.get(path.stem)
    assert path.exists()


def test_a_folder_that_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Missing, match="--results"):
        Store(tmp_path / "file").check_writable()


def test_an_empty_or_absent_store_loads_as_nothing(tmp_path: Path) -> None:
    assert Store(tmp_path / "absent").load().results == []


def test_the_schema_describes_what_is_written(tmp_path: Path) -> None:
    written = msgspec.to_builtins(Store(tmp_path).write(record()))
    definition = schema()["$defs"]["Result"]
    assert set(written) == set(definition["properties"])
    assert definition["additionalProperties"] is False


def test_a_store_becomes_a_frame_with_one_row_per_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in (1, 2, 3):
        store.write(record(seed + 5, seed=seed))
    frame = harness.load(tmp_path).to_frame()
    assert sorted(frame["test_accuracy"]) == [60.0, 70.0, 80.0]
    assert set(frame["method"]) == {"tip"}


def test_a_record_under_another_name_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = store.write(record(seed=1)), store.write(record(seed=2))
    (store.cells / f"{one.key}.json").write_bytes((store.cells / f"{two.key}.json").read_bytes())
    assert store.get(one.key) is None


def test_folders_and_dangling_links_among_records_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    good = store.write(record())
    (store.cells / "folder.json").mkdir()
    (store.cells / "link.json").symlink_to(tmp_path / "nowhere")
    loaded = store.load()
    assert loaded.results == [good]
    assert sorted(problem.split(":")[0].rpartition("/")[2] for problem in loaded.problems) == [
        "folder.json",
        "link.json",
    ]
