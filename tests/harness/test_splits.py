"""Shots are drawn by CoOp's rule to the last index, and a split file is refused when it cannot be right."""

import gzip
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import errors, files, splits
from harness.types import Split

SPLITS = Path(__file__).parents[2] / "../shared/data/splits"

unhurried = settings(deadline=None)  # a busy machine is no failure
labels = st.lists(st.integers(0, 5), max_size=60)
shots = st.integers(1, 8)
seeds = st.integers(0, 1000)


def published(name):
    path = SPLITS / f"{name}.json.gz"
    if not path.exists():
        pytest.skip("the reference splits are not here")
    return json.loads(gzip.decompress(path.read_bytes()))


# -- drawing -----------------------------------------------------------------------------------------


def slow_draw(train, val, shots, seed):
    """The rule as CoOp's loader follows it: the global generator, over the entries themselves."""
    random.seed(seed)
    drawn = []
    for entries, count in ((train, shots), (val, min(shots, 4))):
        of_class = {}
        for entry in entries:
            of_class.setdefault(entry[1], []).append(entry)
        chosen = []
        for members in of_class.values():
            chosen += random.sample(members, count) if len(members) >= count else members
        drawn.append(chosen)
    return drawn


@unhurried
@given(labels, labels, shots, seeds)
def test_a_draw_is_what_the_reference_loader_draws(train, val, shots, seed):
    entries = [[(f"{part}{i}", label) for i, label in enumerate(part_labels)]
               for part, part_labels in (("t", train), ("v", val))]  # fmt: skip
    ours = splits.draw(train, val, shots, seed)
    assert [[part[i] for i in rows] for part, rows in zip(entries, ours, strict=True)] == slow_draw(
        *entries, shots, seed
    )


@unhurried
@given(labels, labels, shots, seeds)
def test_a_draw_takes_k_of_each_class_or_all_and_no_image_twice(train, val, shots, seed):
    for part, rows, count in zip(
        (train, val), splits.draw(train, val, shots, seed), (shots, min(shots, 4)), strict=True
    ):
        assert len(set(rows)) == len(rows)
        taken = [part[row] for row in rows]
        assert {label: taken.count(label) for label in set(part)} == {
            label: min(count, part.count(label)) for label in set(part)
        }
        assert list(dict.fromkeys(taken)) == list(dict.fromkeys(part))


@unhurried
@given(labels, shots, seeds)
def test_a_draw_is_a_function_of_its_seed_and_leaves_the_global_generator_alone(train, shots, seed):
    random.seed(7)
    before = random.getstate()
    assert splits.draw(train, train, shots, seed) == splits.draw(train, train, shots, seed)
    assert random.getstate() == before


def test_another_seed_gives_another_draw():
    train = [label for label in range(10) for _ in range(50)]
    draws = {tuple(splits.draw(train, [], 4, seed)[0]) for seed in range(20)}
    assert len(draws) == 20


def test_eurosat_shots_are_those_of_the_published_index_files():
    """Source: linzhiqiu/cross_modal_adaptation, indices/eurosat/shot_1-seed_1.json and shot_8-seed_2.json."""
    data = published("eurosat")
    train, val = splits.draw(data["train"]["labels"], data["val"]["labels"], 1, 1)
    assert train == [275, 2665, 3129, 5022, 5991, 7507, 8920, 10217, 11527, 12429]
    assert val == [96, 1099, 1229, 2257, 2727, 2999, 3421, 3702, 4656, 5256]
    assert data["train"]["paths"][275] == "AnnualCrop/AnnualCrop_2365.jpg"
    train, _ = splits.draw(data["train"]["labels"], data["val"]["labels"], 8, 2)
    assert train[:10] == [115, 187, 173, 739, 346, 1371, 631, 515, 2740, 1934]
    assert train[64:72] == [11753, 11321, 11770, 11775, 11805, 11474, 11681, 11694]


def test_all_published_draws_of_food101_touch_exactly_the_known_positions():
    """The known positions are the union of 15 published draws, 8,585 in train and 4,110 in val."""
    data = published("food101.partial")
    of_class = {"train": 500, "val": 200}
    full = {part: [label for label in range(101) for _ in range(count)] for part, count in of_class.items()}
    touched = {"train": set(), "val": set()}
    for count in (1, 2, 4, 8, 16):
        for seed in (1, 2, 3):
            train, val = splits.draw(full["train"], full["val"], count, seed)
            touched["train"] |= set(train)
            touched["val"] |= set(val)
    for part in ("train", "val"):
        known = data["known_positions"][part]
        assert touched[part] == set(known["positions"])
        assert all(full[part][at] == label for at, label in zip(known["positions"], known["labels"], strict=True))


# -- asking for too many -----------------------------------------------------------------------------


def test_the_class_with_the_fewest_images_is_named_with_what_can_be_asked():
    split = Split(("ant", "bee"), train=(("a", 0), ("b", 0), ("c", 1)))
    splits.check_shots(split, 1, "insects")
    with pytest.raises(
        errors.UsageError,
        match=r"shots 2: class 'bee' of insects has 1 training image; ask for at most --shots 1\.",
    ):
        splits.check_shots(split, 2, "insects")
    with pytest.raises(errors.UsageError, match="class 1 of insects has 1"):
        splits.check_shots([0, 0, 1], 2, "insects")
    with pytest.raises(errors.UsageError, match="class 'cow' of insects has 0 training images; no number"):
        splits.check_shots([0, 1], 1, "insects", ["ant", "bee", "cow"])


@pytest.mark.parametrize("count", [0, -3])
def test_fewer_than_one_shot_is_refused(count):
    with pytest.raises(errors.UsageError, match=f"shots {count}: at least 1"):
        splits.check_shots([0, 1], count, "x")


def test_a_set_without_training_images_has_no_shots():
    with pytest.raises(errors.UsageError, match="no training images"):
        splits.check_shots([], 1, "x")


def test_caltech_gives_sixteen_shots_and_no_more():
    data = published("caltech101")
    splits.check_shots(data["train"]["labels"], 16, "caltech101", data["classnames"])
    with pytest.raises(errors.UsageError, match="at most --shots 16"):
        splits.check_shots(data["train"]["labels"], 17, "caltech101", data["classnames"])


# -- dividing one's own images -----------------------------------------------------------------------

fractions = st.tuples(st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1)).map(
    lambda raw: tuple(part / sum(raw) for part in raw)
)


@unhurried
@given(st.integers(0, 60), seeds, fractions)
def test_carving_loses_nothing_and_leaves_no_part_empty(count, seed, fractions):
    entries = list(range(count))
    train, val, test = (part["x"] for part in splits.carve({"x": entries}, seed, fractions))
    assert sorted(train + val + test) == entries
    assert len(train) >= min(count, 1)
    assert bool(test) == (fractions[2] > 0 and count >= 2)
    if fractions[1] > 0:
        assert bool(val) == (count >= (3 if fractions[2] > 0 else 2))
    else:
        assert not val


@unhurried
@given(st.integers(10, 500), seeds)
def test_carving_follows_the_fractions_within_one_image(count, seed):
    parts = splits.carve({"x": range(count)}, seed)
    for part, fraction in zip(parts, (0.5, 0.2, 0.3), strict=True):
        assert abs(len(part["x"]) - fraction * count) <= 1


def test_a_class_is_carved_the_same_whatever_the_others_hold():
    alone = splits.carve({"a": range(20)}, 3)
    beside = splits.carve({"b": range(7), "a": range(20)}, 3)
    assert [part["a"] for part in alone] == [part["a"] for part in beside]
    assert splits.carve({"a": range(20)}, 4) != alone


def test_classes_with_the_same_file_names_are_carved_differently():
    train, _, _ = splits.carve({name: range(20) for name in "abc"}, 1)
    assert len({tuple(part) for part in train.values()}) == 3


# -- on disk -----------------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


@unhurried
@given(st.lists(names, min_size=1, max_size=4), st.data())
def test_a_split_comes_back_as_it_was_saved(tmp_path_factory, classes, data):
    paths = data.draw(st.lists(names.filter(splits.stays_inside), unique=True, max_size=12))
    entries = [(path, data.draw(st.integers(0, len(classes) - 1))) for path in paths]
    split = Split(tuple(classes), tuple(entries[::3]), tuple(entries[1::3]), tuple(entries[2::3]))
    path = tmp_path_factory.mktemp("split") / "split.json"
    splits.save_split(split, path)
    again = splits.load_split(path)
    assert again == split
    assert splits.split_digest(again) == splits.split_digest(split)


def test_the_order_of_entries_and_the_class_names_are_part_of_the_digest():
    split = Split(("a", "b"), train=(("x", 0), ("y", 1)))
    digests = {
        splits.split_digest(split),
        splits.split_digest(Split(("a", "b"), train=(("y", 1), ("x", 0)))),
        splits.split_digest(Split(("a", "c"), train=(("x", 0), ("y", 1)))),
        splits.split_digest(Split(("a", "b"), val=(("x", 0), ("y", 1)))),
    }
    assert len(digests) == 4


def test_two_classes_may_share_a_name():
    splits.check_split(Split(("missile", "missile"), train=(("x", 0), ("y", 1))), "x")


GOOD = {
    "format": "harness-split/1",
    "classes": ["a", "b"],
    "train": {"paths": ["x.jpg", "y.jpg"], "labels": [0, 1]},
    "val": {"paths": [], "labels": []},
    "test": {"paths": ["z.jpg"], "labels": [1]},
}


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        ({"format": "harness-split/2"}, errors.UsageError, "format is 'harness-split/2'"),
        ({"classes": []}, errors.Corrupt, "classes is empty"),
        ({"classes": 3}, errors.Corrupt, "not a split file"),
        ({"more": 3}, errors.Corrupt, "unknown field `more`"),
        ({"val": {"paths": ["v"], "labels": []}}, errors.Corrupt, "val has 1 paths, 0 labels"),
        ({"val": {"paths": ["v"], "labels": [2]}}, errors.Corrupt, "val gives 'v' label 2, of 2 classes"),
        ({"val": {"paths": ["v"], "labels": [-1]}}, errors.Corrupt, "label -1"),
        (
            {"val": {"paths": ["z.jpg"], "labels": [1]}},
            errors.Corrupt,
            "test has path 'z.jpg', which is in val",
        ),
        (
            {"val": {"paths": ["v", "v"], "labels": [1, 1]}},
            errors.Corrupt,
            "val has path 'v', which is in val",
        ),
        ({"val": {"paths": ["/etc/v"], "labels": [1]}}, errors.Corrupt, "'/etc/v', which leaves"),
        ({"val": {"paths": ["a/../../v"], "labels": [1]}}, errors.Corrupt, "which leaves the image folder"),
        ({"val": {"paths": ["..\\v"], "labels": [1]}}, errors.Corrupt, "which leaves the image folder"),
        ({"val": {"paths": ["C:v"], "labels": [1]}}, errors.Corrupt, "which leaves the image folder"),
        ({"val": {"paths": [""], "labels": [1]}}, errors.Corrupt, "which leaves the image folder"),
    ],
)
def test_a_wrong_split_file_is_told_in_one_line(tmp_path, change, kind, told):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(GOOD))
    splits.load_split(path)
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(kind) as error:
        splits.load_split(path)
    text = str(error.value)
    assert told in text and "split.json" in text and "\n" not in text


def test_a_cut_split_file_is_corrupt_and_an_absent_one_missing(tmp_path):
    path = tmp_path / "split.json"
    with pytest.raises(errors.Missing, match="cannot read the split"):
        splits.load_split(path)
    for data in (json.dumps(GOOD).encode()[:-9], b"\xff\xfe", b""):
        path.write_bytes(data)
        with pytest.raises(errors.Corrupt, match=r"split\.json: not a split file"):
            splits.load_split(path)


def test_a_wrong_split_is_not_saved(tmp_path):
    with pytest.raises(errors.Corrupt):
        splits.save_split(Split(("a",), train=(("x", 1),)), tmp_path / "split.json")
    assert list(tmp_path.iterdir()) == []


def test_all_published_splits_pass_the_checks():
    for name in ("dtd", "caltech101", "oxford_pets"):
        data = published(name)
        parts = [
            tuple(zip(data[part]["paths"], data[part]["labels"], strict=True)) for part in ("train", "val", "test")
        ]
        splits.check_split(Split(tuple(data["classnames"]), *parts), name)


def test_a_split_digest_is_a_plain_hash_of_its_contents():
    split = Split(("a",), (("x", 0),))
    assert splits.split_digest(split) == files.digest_of([["a"], [["x", 0]], [], []])
