"""The store keeps what it is given, notices every change, and never lets one bad record hide the others."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness
from harness import files
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
    checksum = {"checksum": json.loads(path.read_text())["checksum"]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **checksum, **changes}))


def seal_text(path: Path) -> None:
    """A good checksum of whatever the file says: over its text without white space, up to the last field."""
    document = {**json.loads(path.read_text()), "checksum": ""}
    document["checksum"] = document.pop("checksum")
    head = json.dumps(document, separators=(",", ":")).translate({ord(space): None for space in " \t\r\n"})
    digest = hashlib.sha256(head.rpartition(',"checksum":')[0].encode()).hexdigest()
    path.write_text(json.dumps({**document, "checksum": f"text:{digest}"}))


def seal_values(path: Path) -> None:
    """The first form of the checksum: over the values in canonical JSON."""
    document = {name: value for name, value in json.loads(path.read_text()).items() if name != "checksum"}
    path.write_text(json.dumps({**document, "checksum": files.digest_of(document)}))


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


IMPOSSIBLE: dict[str, dict[str, object]] = {
    "unknown_field": {"unknown_field": 1},
    "test.correct: 11 of 10": {"test": {"correct": 11, "total": 10, "accuracy": 110.0}},
    "test.accuracy": {"test": {"correct": 5, "total": 10, "accuracy": 60.0}},
    "test.correct": {"test": {"correct": "many", "total": 10, "accuracy": 60.0}},
    "not JSON": {"test": {"correct": 5, "total": 10, "accuracy": float("nan")}},
    "provenance.machine": {"provenance": {"machine": "a laptop"}},
    "provenance.git": {"provenance": {"git": ["main"]}},
    "val.correct: 0 of 0": {"val": {"correct": 0, "total": 0, "accuracy": 0.0}},
}


@pytest.mark.parametrize("said", IMPOSSIBLE)
@pytest.mark.parametrize("seal", [seal_text, seal_values])
def test_impossible_numbers_and_unknown_fields_are_refused_even_with_a_good_checksum(
    tmp_path: Path, said: str, seal: Callable[[Path], None]
) -> None:
    store = Store(tmp_path)
    good, bad = store.write(record(seed=1)), store.write(record(seed=2))
    path = store.path(bad.key)
    edit(path, **IMPOSSIBLE[said])
    if said != "not JSON":  # no seal knows NaN
        seal(path)
    with pytest.raises(Corrupt, match=said):
        read_record(path)
    loaded = store.load()
    assert loaded.results == [good]
    assert len(loaded.problems) == 1


@pytest.mark.parametrize("seal", [seal_text, seal_values])
def test_both_forms_of_the_checksum_are_read(tmp_path: Path, seal: Callable[[Path], None]) -> None:
    store = Store(tmp_path)
    written = store.write(record())
    seal(store.path(written.key))
    assert read_record(store.path(written.key)).test == written.test


def test_line_ends_and_indentation_are_no_change(tmp_path: Path) -> None:
    store = Store(tmp_path)
    written = store.write(record())
    path = store.path(written.key)
    for text in (path.read_bytes().replace(b"\n", b"\r\n"), msgspec.json.format(path.read_bytes(), indent=4)):
        path.write_bytes(text)
        assert read_record(path) == written


def test_a_field_after_the_checksum_is_a_change(tmp_path: Path) -> None:
    """The last of two equal fields would count, and the checksum ends before it."""
    store = Store(tmp_path)
    path = store.path(store.write(record()).key)
    path.write_text(path.read_text().rstrip()[:-1] + ', "status": "failed"}')
    with pytest.raises(Corrupt, match="checksum"):
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


def test_a_record_of_a_newer_version_asks_for_an_upgrade_stays_and_hides_no_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    good, newer = store.write(record(seed=1)), store.write(record(seed=2))
    path = store.path(newer.key)
    edit(path, schema="harness-result/2")
    loaded = store.load()
    assert loaded.results == [good]
    assert len(loaded.problems) == 1
    assert "Upgrade" in loaded.problems[0]
    with pytest.raises(UsageError, match="Upgrade"):
        store.get(path.stem)
    assert path.exists()


@pytest.mark.parametrize(
    "content", [b"\xff\xfe{}", b'{"schema": "\xff"}', b"", b"[]", b"null", b"\x00" * 64, b"[" * 100_000]
)
def test_what_is_no_json_text_is_named(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path)
    good = store.write(record())
    (store.cells / "odd.json").write_bytes(content)
    loaded = store.load()
    assert loaded.results == [good]
    assert "odd.json" in loaded.problems[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_among_the_records_is_named_and_not_waited_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    good = store.write(record())
    os.mkfifo(store.cells / "pipe.json")
    loaded = store.load()
    assert loaded.results == [good]
    assert "pipe.json" in loaded.problems[0]


def test_a_name_that_is_no_text_is_told_in_letters_that_can_be_printed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    good = store.write(record())
    try:
        (store.cells / os.fsdecode(b"\xff\xfe.json")).write_bytes(b"{}")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such name")
    loaded = store.load()
    assert loaded.results == [good]
    assert "\\xff\\xfe.json" in loaded.problems[0]
    loaded.problems[0].encode()  # a lone surrogate would raise


def test_a_number_that_json_cannot_hold_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Store(tmp_path).write(msgspec.structs.replace(record(), facts={"loss": float("nan")}))
    assert Store(tmp_path).load().results == []


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


@pytest.mark.slow
def test_ten_thousand_records_of_a_hundred_classes_load_in_a_second_and_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processor time and memory of a process that does nothing else; about 0.5 s and 110 MB where this was written."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    store = Store(tmp_path)
    for seed in range(10_000):
        who = identity(seed=seed)
        per_class: list[float | None] = [100 * ((seed + place) % 97) / 97 for place in range(100)]
        store.write(Result(key=cell_key(who, {}), status="ok", identity=who, test=score(seed, 10_000, per_class),
                           digests=dict.fromkeys(("weights", "split", "prompts", "shots"), "0" * 64)))  # fmt: skip
    code = (
        "import re, sys, time; from pathlib import Path; from harness.results import Store;"
        "begun = time.process_time(); loaded = Store(Path(sys.argv[1])).load(); spent = time.process_time() - begun;"
        "status = Path('/proc/self/status'); text = status.read_text() if status.exists() else 'VmHWM: 0';"
        "print(len(loaded.results), spent, re.search(r'VmHWM:\\s*(\\d+)', text)[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    count, seconds, kilobytes = map(float, done.stdout.split())
    assert count == 10_000
    assert seconds < 1.5  # a busy neighbour on the same core doubles it
    assert kilobytes < 200_000
