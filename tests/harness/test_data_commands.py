"""A data set that is not here, from its archive to a row of the table, by the commands alone."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from harness import find, prepare, splits
from harness.types import Dataset, Remote, Split

Command = Callable[..., tuple[int, str, str]]
COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


def read(root: Path) -> Split:
    """Images 0-3 of a class train, 4 and 5 validate, 6-8 test."""
    parts: list[list[tuple[str, int]]] = [[], [], []]
    for label, name in enumerate(sorted(COLOURS)):
        for i, path in enumerate(sorted((root / name).iterdir())):
            parts[0 if i < 4 else 1 if i < 6 else 2].append((f"{name}/{path.name}", label))
    return Split(tuple(sorted(COLOURS)), *map(tuple, parts))


MINI = Dataset(
    name="mini",
    title="Mini",
    templates=("something {}.",),
    archives=(Remote(file="mini.zip", by_hand="Ask the author for it."),),
    roots=("mini/images",),
    counts=(12, 6, 9),
    classes=3,
    reader=read,
    encoder="demo",
)


def read_shifted(root: Path) -> Split:
    """Darker images of two of the three classes, in an order of their own."""
    test = [
        (f"{name}/{path.name}", label)
        for label, name in enumerate(("red", "blue"))
        for path in sorted((root / name).iterdir())
    ]
    return Split(("red", "blue"), test=tuple(test))


DARK = Dataset(
    name="mini_dark",
    title="Mini, darker",
    templates=("never used {}.",),
    source="mini",
    archives=(Remote(file="dark.zip"),),
    roots=("mini_dark",),
    counts=(0, 0, 8),
    classes=2,
    reader=read_shifted,
    columns=(2, 0),  # red and blue among blue, green, red
)


@pytest.fixture
def mini(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive of a small data set that the commands know by name."""
    built_in, names = find.dataset, find.dataset_names()
    monkeypatch.setattr(find, "dataset_names", lambda: sorted([*names, "mini", "mini_dark"]))
    ours = {"mini": MINI, "mini_dark": DARK}
    monkeypatch.setattr(find, "dataset", lambda name: ours.get(name) or built_in(name))
    archive = home / "mini.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for name, colour in COLOURS.items():
            for i in range(9):
                path = home / "one.png"
                Image.new("RGB", (40, 40), tuple(min(255, c + 5 * i) for c in colour)).save(path)
                zipped.write(path, f"images/{name}/{i}.png")
    return archive


def test_a_data_set_goes_from_missing_to_a_row_of_the_table(mini: Path, harness_command: Command) -> None:
    def state() -> str:
        rows = json.loads(harness_command("data", "list", "--json")[1])
        return str(next(row["state"] for row in rows if row["name"] == "mini"))

    assert state() == "missing"
    code, _, err = harness_command("data", "prepare", "mini")
    assert (code, "Ask the author" in err) == (8, True)
    code, out, _ = harness_command("data", "prepare", "mini", "--from", mini)
    assert code == 0
    assert out.startswith("mini: ready in ")
    assert state() == "ready"
    code, out, _ = harness_command("run", "--datasets", "mini", "--methods", "ncm", "--seeds", 1, "--json")
    record = json.loads(out)["records"][0]
    assert (code, record["accuracy"], record["shots"]) == (0, 100.0, 4)
    assert json.loads(harness_command("data", "prepare", "mini", "--json")[1])[0]["counts"] == [12, 6, 9]


def test_verify_counts_and_hashes_and_names_what_is_gone(mini: Path, harness_command: Command) -> None:
    harness_command("data", "prepare", "mini", "--from", mini)
    assert harness_command("data", "verify", "mini", "--hashes")[0] == 0
    root = prepare.locate(MINI)
    assert root is not None
    (root / "red" / "3.png").write_bytes((root / "red" / "2.png").read_bytes())
    code, _, err = harness_command("data", "verify", "mini", "--hashes")
    assert (code, "red" in err) == (6, True)
    (root / "red" / "3.png").unlink()
    code, out, err = harness_command("data", "verify", "mini", "--json")
    assert code == 6
    assert json.loads(out)[0]["problems"]
    code, _, err = harness_command("run", "--datasets", "mini", "--methods", "ncm", "--seeds", 1)
    assert (code, len(err.strip().splitlines())) == (6, 1), err  # another number of images than there should be


def test_what_one_data_set_lacks_does_not_stop_the_others(
    mini: Path, harness_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness_command("data", "prepare", "mini", "--from", mini)
    monkeypatch.setattr(find, "suites", lambda: {"pair": ("mini", "imagenet")})
    code, out, _ = harness_command("data", "prepare", "pair")
    assert code == 8
    assert "mini: ready in" in out
    assert "imagenet: not ready: " in out


def test_a_published_list_stands_in_for_a_draw(mini: Path, home: Path, harness_command: Command) -> None:
    harness_command("data", "prepare", "mini", "--from", mini)
    drawn = json.loads(harness_command("data", "shots", "mini", "--shots", 2, "--seed", 5, "--json")[1])
    (home / "list.txt").write_text("\n".join(entry["path"] for entry in drawn["train"]))
    (home / "list.json").write_text(json.dumps(drawn))
    again = json.loads(harness_command("data", "shots", "mini", "--split-file", home / "list.json", "--json")[1])
    assert again == drawn
    text = harness_command("data", "shots", "mini", "--split-file", home / "list.txt")[1]
    assert [line.split("\t")[1] for line in text.splitlines() if line.startswith("train")] == [
        e["path"] for e in drawn["train"]
    ]
    root = prepare.locate(MINI)
    assert root is not None
    assert [entry["path"] for entry in drawn["train"]] == [
        path for path, _ in splits.draw_shots(read(root), 2, 5).train
    ]


def test_a_run_takes_its_shots_from_a_published_list(mini: Path, home: Path, harness_command: Command) -> None:
    harness_command("data", "prepare", "mini", "--from", mini)
    drawn = json.loads(harness_command("data", "shots", "mini", "--shots", 2, "--seed", 5, "--json")[1])
    (home / "list.json").write_text(json.dumps(drawn))
    words = ("run", "--datasets", "mini", "--methods", "tip", "--json")
    listed = json.loads(harness_command(*words, "--split-file", home / "list.json")[1])["records"]
    ours = json.loads(harness_command(*words, "--shots", 2, "--seeds", 5)[1])["records"]
    assert [(record["shots"], record["seed"]) for record in listed] == [(2, 1)]
    assert listed[0]["accuracy"] == ours[0]["accuracy"]
    shown = json.loads(harness_command("results", "show", listed[0]["key"])[1])
    assert shown["digests"]["shots"] == drawn["sha256"]
    assert harness_command(*words, "--split-file", home / "list.json", "--shots", 4)[0] == 2
    assert harness_command("run", "--datasets", "mini,demo_digits", "--split-file", home / "list.json")[0] == 2


def test_prompt_sets_are_chosen_by_name_and_recorded(mini: Path, harness_command: Command) -> None:
    harness_command("data", "prepare", "mini", "--from", mini)
    words = ("run", "--datasets", "mini", "--methods", "zero_shot", "--shots", 1, "--seeds", 1, "--json")
    single, many = (
        json.loads(harness_command(*words, *more)[1])["records"][0]["key"] for more in ((), ("--prompts", "openai80"))
    )
    one, eighty = (json.loads(harness_command("results", "show", key)[1]) for key in (single, many))
    assert (one["identity"]["prompts"], eighty["identity"]["prompts"]) == ("single", "openai80")
    assert one["digests"]["prompts"] != eighty["digests"]["prompts"]
    assert one["digests"]["shots"] == eighty["digests"]["shots"]


def test_a_shifted_set_with_fewer_classes_is_scored_from_its_source(
    mini: Path, home: Path, harness_command: Command
) -> None:
    harness_command("data", "prepare", "mini", "--from", mini)
    for name in ("red", "blue"):
        (home / "dark" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (40, 40), tuple(c * 9 // 10 + 5 * i for c in COLOURS[name])).save(
                home / "dark" / name / f"{i}.png"
            )
    code, _, err = harness_command("data", "prepare", "mini_dark", "--from", home / "dark")
    assert code == 0, err
    code, out, err = harness_command(
        "run", "--datasets", "mini-dark", "--methods", "ncm", "--shots", 4, "--seeds", 1, "--json"
    )
    assert code == 0, err
    assert "fitted and tuned on mini" in err
    records = {record["dataset"]: record for record in json.loads(out)["records"]}
    assert set(records) == {"mini", "mini_dark"}
    whole, part = (
        json.loads(harness_command("results", "show", records[name]["key"])[1]) for name in ("mini", "mini_dark")
    )
    assert whole["hyperparameters"] == part["hyperparameters"]
    assert (part["test"]["total"], len(part["test"]["per_class_accuracy"])) == (8, 2)
    assert part["test"]["accuracy"] == 100.0  # with labels of the source it would be 0
    assert part["digests"]["source"] == whole["digests"]["split"]
    row = json.loads(harness_command("table", "--format", "json")[1])["rows"][0]
    assert (row["shift_mean"], row["drop"]) == (100.0, row["datasets"]["mini"]["mean"] - 100.0)


def test_other_pictures_under_the_same_names_are_encoded_again(mini: Path, harness_command: Command) -> None:
    """Features are kept by the images they came from, not by their paths."""
    harness_command("data", "prepare", "mini", "--from", mini)
    words = ("run", "--datasets", "mini", "--methods", "ncm", "--seeds", 1, "--json")
    assert json.loads(harness_command(*words)[1])["records"][0]["accuracy"] == 100.0
    root = prepare.locate(MINI)
    assert root is not None
    for i in (6, 7, 8):  # test images of red now show blue, and the reverse
        red, blue = root / "red" / f"{i}.png", root / "blue" / f"{i}.png"
        one, other = red.read_bytes(), blue.read_bytes()
        red.write_bytes(other + b" ")
        blue.write_bytes(one + b" ")
    record = json.loads(harness_command(*words)[1])["records"][0]
    assert record["computed"]
    assert record["accuracy"] == pytest.approx(100 / 3)


def test_a_result_on_an_incomplete_data_set_says_so_in_the_table(
    mini: Path, harness_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness_command("data", "prepare", "mini", "--from", mini)
    root = prepare.locate(MINI)
    assert root is not None
    for i in (7, 8):
        (root / "red" / f"{i}.png").unlink()
    monkeypatch.setenv("HARNESS_ALLOW_INCOMPLETE", "1")
    code, out, err = harness_command("run", "--datasets", "mini", "--methods", "ncm", "--seeds", 1)
    assert code == 0, err
    assert "12/6/7 of 12/6/9 train/val/test images" in out


def test_a_folder_that_cannot_be_read_says_what_is_wrong_with_it(
    mini: Path, home: Path, harness_command: Command
) -> None:
    import benchmarks.imagenet_a

    (home / "own" / "imagenet-adversarial" / "imagenet-a" / "n01498041").mkdir(parents=True)
    assert benchmarks.imagenet_a.dataset.roots[0] == "imagenet-adversarial/imagenet-a"
    code, _, err = harness_command("data", "prepare", "imagenet_a", "--from", home / "own")
    assert code in (6, 8)
    assert "holds no images" not in err
    assert "class folders" in err
