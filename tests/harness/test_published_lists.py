"""Our sampler draws what was published, split files come out as CoOp wrote them, and published lists can be used."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from harness import errors, find, splits
from harness.types import Split

SPLITS = Path(__file__).parents[2] / "../shared/data/splits"
COMPLETE = ("caltech101", "oxford_pets", "stanford_cars", "flowers102", "dtd", "eurosat", "ucf101")


def published(name):
    path = SPLITS / f"{name}.json.gz"
    if not path.exists():
        pytest.skip("the reference splits are not here")
    return json.loads(gzip.decompress(path.read_bytes()))


def whole(name):
    """A complete published split, and the text of the file that CoOp published."""
    data = published(name)
    names = data["classnames"]
    parts = {
        part: list(zip(data[part]["paths"], data[part]["labels"], strict=True)) for part in ("train", "val", "test")
    }
    document = {part: [[path, label, names[label]] for path, label in entries] for part, entries in parts.items()}
    text = json.dumps(document, indent=4, separators=(",", ": "))
    return Split(tuple(names), *(tuple(entries) for entries in parts.values())), text


def index_file(name, split, shots, seed):
    """The index file as cross_modal_adaptation would write our draw."""
    rows = splits.draw([y for _, y in split.train], [y for _, y in split.val], shots, seed)
    root, written = find.dataset(name).roots[0], {}
    for part, drawn in zip(("train", "val"), rows, strict=True):
        entries = [getattr(split, part)[row] for row in drawn]
        data = [{"impath": f"./data/{root}/{path}", "label": label, "classname": split.classes[label]}
                for path, label in entries]  # fmt: skip
        written[part] = {"data": data, "indices": drawn}
    return json.dumps(written, indent=4)


# -- split files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPLETE)
def test_the_pinned_hashes_are_those_of_the_split_that_the_field_uses(name, tmp_path):
    split, text = whole(name)
    dataset = find.dataset(name)
    remote, data = dataset.split_file, text.encode()
    assert len(data) == remote.bytes
    assert hashlib.sha256(data).hexdigest() == remote.sha256
    assert hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == remote.git_blob
    (tmp_path / remote.file).write_bytes(data)
    found = splits.read_coop(tmp_path / remote.file)
    assert found == split
    assert dataset.counts == (len(found.train), len(found.val), len(found.test))
    assert dataset.classes == len(found.classes)
    splits.save_split(found, tmp_path / "split.json.gz")
    assert splits.load_split(tmp_path / "split.json.gz") == split
    assert (tmp_path / "split.json.gz").stat().st_size < len(data) / 10


# -- draws -------------------------------------------------------------------------------------------

# Length and last three validation positions of indices/<data set>/shot_<K>-seed_<S>.json in
# linzhiqiu/cross_modal_adaptation at 0ba1f73e1e31a5d090f00f79ec7e822bc663c4fa. The generator's state after the whole
# training draw shows in the last validation positions; every drawn path and position shows in the length.
PUBLISHED = [
    ("caltech101", 1, 1, 41784, [1620, 1629, 1648]),
    ("caltech101", 8, 2, 250002, [1646, 1637, 1640]),
    ("caltech101", 16, 1, 416690, [1643, 1638, 1639]),
    ("caltech101", 16, 2, 416684, [1648, 1638, 1645]),
    ("caltech101", 16, 3, 416689, [1642, 1646, 1637]),
    ("oxford_pets", 2, 3, 28903, [697, 726, 730]),
    ("oxford_pets", 16, 1, 144046, [726, 728, 725]),
    ("oxford_pets", 16, 2, 144058, [734, 720, 725]),
    ("oxford_pets", 16, 3, 144055, [717, 728, 725]),
    ("stanford_cars", 4, 1, 322925, [1628, 1627, 1631]),
    ("stanford_cars", 16, 1, 807673, [1628, 1634, 1631]),
    ("stanford_cars", 16, 2, 807674, [1627, 1630, 1628]),
    ("stanford_cars", 16, 3, 807673, [1634, 1628, 1629]),
    ("flowers102", 8, 3, 233241, [1631, 1630, 1629]),
    ("flowers102", 16, 1, 388725, [1627, 1630, 1632]),
    ("flowers102", 16, 2, 388735, [1629, 1630, 1631]),
    ("flowers102", 16, 3, 388723, [1626, 1625, 1624]),
    ("dtd", 1, 2, 17763, [1067, 1098, 1127]),
    ("dtd", 16, 1, 176343, [1112, 1123, 1114]),
    ("dtd", 16, 2, 176337, [1110, 1107, 1108]),
    ("dtd", 16, 3, 176336, [1104, 1110, 1112]),
    ("eurosat", 16, 1, 40349, [5322, 5014, 5242]),
    ("eurosat", 16, 2, 40349, [5264, 5037, 5320]),
    ("eurosat", 16, 3, 40362, [5027, 5075, 5044]),
    ("ucf101", 2, 1, 88486, [1876, 1882, 1887]),
    ("ucf101", 4, 2, 176817, [1894, 1886, 1892]),
    ("ucf101", 16, 1, 442065, [1889, 1893, 1896]),
    ("ucf101", 16, 2, 442058, [1880, 1885, 1893]),
    ("ucf101", 16, 3, 442061, [1883, 1892, 1887]),
]


@pytest.mark.parametrize("name", COMPLETE)
def test_draws_end_where_the_published_ones_end_and_are_as_long(name):
    split, _ = whole(name)
    for row, shots, seed, length, tail in PUBLISHED:
        if row == name:
            text = index_file(name, split, shots, seed)
            assert (shots, seed, json.loads(text)["val"]["indices"][-3:]) == (shots, seed, tail)
            assert (shots, seed, len(text)) == (shots, seed, length)


def test_the_first_and_last_draws_of_eurosat_are_published_in_full():
    """Source: indices/eurosat/shot_1-seed_1.json, all of it."""
    split, _ = whole("eurosat")
    shots = splits.draw_shots(split, 1, 1)
    assert [path.rpartition("_")[2] for path, _ in shots.train] == [
        "2365.jpg", "2046.jpg", "503.jpg", "125.jpg", "2006.jpg", "573.jpg", "1476.jpg", "1520.jpg", "882.jpg", "1624.jpg",
    ]  # fmt: skip
    assert [path.rpartition("_")[2] for path, _ in shots.val] == [
        "1229.jpg", "826.jpg", "120.jpg", "174.jpg", "1199.jpg", "859.jpg", "179.jpg", "1089.jpg", "275.jpg", "398.jpg",
    ]  # fmt: skip


def union_of_draws(train, val):
    touched = {"train": set(), "val": set()}
    for count in (1, 2, 4, 8, 16):
        for seed in (1, 2, 3):
            rows = splits.draw(train, val, count, seed)
            for part, drawn in zip(touched, rows, strict=True):
                touched[part] |= set(drawn)
    return touched


def test_all_published_draws_of_sun397_touch_exactly_the_known_positions():
    """Known are the positions of 15 published draws: 14,872 in train, 3,954 in val; 40 and 10 images per class."""
    data = published("sun397.partial")
    touched = union_of_draws([i // 40 for i in range(15880)], [i // 10 for i in range(3970)])
    for part, per_class in (("train", 40), ("val", 10)):
        known = data["known_positions"][part]
        assert touched[part] == set(known["positions"])
        assert [at // per_class for at in known["positions"]] == known["labels"]


def test_all_published_draws_of_aircraft_touch_as_many_training_images_as_ours():
    """The published draws tell 3,219 positions; the training list is known in full, the validation list is not."""
    data = published("fgvc_aircraft.partial")
    assert len(union_of_draws(data["train"]["labels"], [])["train"]) == 3219


# -- lists of ImageNet -------------------------------------------------------------------------------


def imagenet_lists():
    return published("imagenet_fewshot")["sets"]


def imagenet_split(stems):
    """A split that holds exactly these training images, in the order of ours: sorted within sorted wnids."""
    labels = {wnid: label for label, wnid in enumerate(sorted({stem.partition("_")[0] for stem in stems}))}
    entries = [
        (f"train/{wnid}/{stem}.JPEG", labels[wnid]) for stem in sorted(stems) for wnid in [stem.partition("_")[0]]
    ]
    # every seventh of them is a validation image, as some images of a published list are with our rule
    return Split(tuple(labels), tuple(e for i, e in enumerate(entries) if i % 7), tuple(entries[::7]), ())


@pytest.mark.parametrize("form", ["text", "list", "parts"])
def test_every_published_imagenet_list_is_taken_in_its_order(form, tmp_path):
    lists = imagenet_lists()
    split = imagenet_split({stem for stems in lists.values() for stem in stems})
    held = set(split.val)
    for name, stems in list(lists.items())[:: 3 if form == "text" else 7]:
        path = tmp_path / "list"
        path.write_text(
            {"text": "\n".join(stems), "list": json.dumps(stems), "parts": json.dumps({"train": stems})}[form]
        )
        shots = splits.shots_from_file(path, split)
        assert [file.rpartition("/")[2].removesuffix(".JPEG") for file, _ in shots.train] == stems
        assert shots.per_class == int(name.split("/")[1])
        assert any(entry in held for entry in shots.train)
        assert not set(shots.val) & set(shots.train)
        fixed, train, val = splits.pinned(split, shots)
        assert [fixed.train[row] for row in train] == list(shots.train)
        assert [fixed.val[row] for row in val] == list(shots.val)
        assert not set(fixed.train) & set(fixed.val)


def test_larger_published_draws_begin_like_smaller_ones_in_the_first_class():
    """One generator per draw, `random.sample` per class: before anything else is drawn, K = 1 is a prefix of K = 8."""
    lists = imagenet_lists()
    for seed in "123":
        most = lists[f"cross_modal/8/{seed}"][:8]
        for shots in (1, 2, 4):
            assert lists[f"cross_modal/{shots}/{seed}"][:shots] == most[:shots]
    labels = [0] * 1170 + [1] * 1170
    for seed in (1, 2, 3):
        most = splits.draw(labels, [], 8, seed)[0][:8]
        assert [splits.draw(labels, [], shots, seed)[0][:shots] for shots in (1, 2, 4)] == [
            most[:1],
            most[:2],
            most[:4],
        ]


# -- forms of lists ----------------------------------------------------------------------------------

TOY = Split(
    ("ant", "bee"),
    (("ant/1.jpg", 0), ("ant/2.jpg", 0), ("bee/1.jpg", 1), ("bee/7.jpg", 1)),
    (("ant/3.jpg", 0), ("bee/3.jpg", 1), ("ant/4.jpg", 0), ("bee/4.jpg", 1)),
    (("ant/9.jpg", 0), ("bee/9.jpg", 1)),
)


def take(tmp_path, content, split=TOY, **options):
    path = tmp_path / "shots.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return splits.shots_from_file(path, split, **options)


FORMS = {
    "paths": {"train": ["bee/7.jpg", "ant/1.jpg"], "val": ["ant/4.jpg", "bee/3.jpg"]},
    "data shots --json": {
        "train": [{"path": "bee/7.jpg", "label": 1}, {"path": "ant/1.jpg", "label": 0}],
        "val": [{"path": "ant/4.jpg", "label": 0}, {"path": "bee/3.jpg", "label": 1}],
        "sha256": "of something",
    },
    "triples": {
        "train": [["bee/7.jpg", 1, "bee"], ["ant/1.jpg", 0, "ant"]],
        "val": [["ant/4.jpg", 0, "ant"], ["bee/3.jpg", 1, "bee"]],
    },
    "index file": {
        "train": {
            "data": [{"impath": "./data/insects/bee/7.jpg", "label": 1}, {"impath": "/disk/ant/1.jpg", "label": 0}],
            "indices": [17, 12],  # positions in their own split: the paths decide
        },
        "val": {"data": [{"impath": "d/ant/4.jpg"}, {"impath": "d/bee/3.jpg"}], "indices": [9, 9]},
    },
    "positions": {"train": {"indices": [3, 0]}, "val": {"indices": [2, 1]}},
    "data shots": b"train\tbee/7.jpg\tbee\ntrain\tant/1.jpg\tant\nval\tant/4.jpg\tant\nval\tbee/3.jpg\tbee\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_list_means_the_same_shots(form, tmp_path):
    shots = take(tmp_path, FORMS[form])
    assert shots == splits.Shots((("bee/7.jpg", 1), ("ant/1.jpg", 0)), (("ant/4.jpg", 0), ("bee/3.jpg", 1)))
    assert shots.per_class == 1


def test_a_file_name_or_stem_is_enough_where_one_image_has_it(tmp_path):
    assert take(tmp_path, b"7.jpg\n2\n").train == (("bee/7.jpg", 1), ("ant/2.jpg", 0))
    with pytest.raises(errors.UsageError, match=r"train has '1\.jpg', which is not in the split"):
        take(tmp_path, b"7.jpg\n1.jpg\n")


def test_without_listed_validation_images_they_are_drawn_from_what_the_list_leaves(tmp_path):
    shots = take(tmp_path, ["ant/3.jpg", "bee/1.jpg"])
    assert shots.train == (("ant/3.jpg", 0), ("bee/1.jpg", 1))
    assert [label for _, label in shots.val] == [1, 0]
    assert set(shots.val) <= {("bee/3.jpg", 1), ("bee/4.jpg", 1), ("ant/4.jpg", 0)}
    drawn = {take(tmp_path, ["ant/1.jpg", "bee/1.jpg"], seed=seed).val for seed in range(20)}
    assert len(drawn) == 4  # 2 x 2 ways
    split, train, val = splits.pinned(TOY, shots)
    assert split.val == (("bee/3.jpg", 1), ("ant/4.jpg", 0), ("bee/4.jpg", 1))
    assert (train, [split.val[row] for row in val]) == ([0, 1], list(shots.val))


def test_a_draw_printed_as_json_comes_back_with_the_same_digest(tmp_path):
    shots = splits.draw_shots(TOY, 2, 3)
    listed = {
        part: [{"path": path, "label": label} for path, label in getattr(shots, part)] for part in ("train", "val")
    }
    assert take(tmp_path, listed).digest == shots.digest
    assert splits.Shots(shots.train[::-1], shots.val).digest != shots.digest


def test_a_published_index_file_gives_our_own_draw(tmp_path):
    split, _ = whole("dtd")
    path = tmp_path / "shot_16-seed_2.json"
    path.write_text(index_file("dtd", split, 16, 2))
    assert splits.shots_from_file(path, split) == splits.draw_shots(split, 16, 2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (["ant/1.jpg", "bee/9.jpg"], "'bee/9.jpg', which is a test image"),
        (["ant/1.jpg", "cow/1.jpg"], "'cow/1.jpg', which is not in the split"),
        (["ant/1.jpg", "bee/1.jpg", "ant/1.jpg"], "'ant/1.jpg' more than once"),
        (["ant/1.jpg", "ant/2.jpg"], "no image of 'bee', and of 1 of 2 classes"),
        ([["ant/1.jpg", 1], ["bee/1.jpg", 1]], "'ant/1.jpg' label 1; the split gives it 0"),
        ({"train": ["ant/1.jpg", "bee/1.jpg"], "val": ["bee/1.jpg"]}, "val has 'bee/1.jpg', which is in train"),
        ({"train": {"indices": [0, 4]}}, "train has index 4; the split has 4 images"),
        ({"train": {"indices": 0.5}}, "train has index 0.5"),
        ({"train": {"data_": 1}}, "train has index None"),
        ({"train": 3}, "train is not a list of paths"),
        ({"train": [{"file": "ant/1.jpg"}]}, "train is not a list of paths"),
        ({"train": [["ant/1.jpg", "ant"]]}, "train is not a list of paths"),
        ({"val": ["ant/1.jpg"]}, "train is not there"),
        ({}, "train is not there"),
        (b"{", "not a list of shots"),
        (b"\x80\x04\x95", "is a pickle"),
        (b"a\xff", "neither JSON nor text"),
        (b"test\tant/1.jpg", "line 1 is for part 'test'"),
    ],
)  # fmt: skip
def test_a_list_that_does_not_fit_is_told_in_one_line(content, told, tmp_path):
    with pytest.raises(errors.UsageError) as error:
        take(tmp_path, content)
    text = str(error.value)
    assert told in text and text.startswith("shots.json") and "\n" not in text


def test_a_list_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(errors.Missing, match="cannot read the list of shots"):
        splits.shots_from_file(tmp_path / "none.txt", TOY)


# -- CoOp's form by hand -----------------------------------------------------------------------------

COOP = {
    "train": [["b/2.jpg", 1, "bee"], ["a/1.jpg", 0, "ant"], ["b/1.jpg", 1, "bee"]],
    "val": [],
    "test": [["c/1.jpg", 2, "cow"]],
}


def test_a_split_of_coop_keeps_its_order_and_names_classes_by_label(tmp_path):
    path = tmp_path / "split_zhou_Toy.json"
    path.write_text(json.dumps(COOP))
    split = splits.read_coop(path)
    assert split.classes == ("ant", "bee", "cow")
    assert split.train == (("b/2.jpg", 1), ("a/1.jpg", 0), ("b/1.jpg", 1))
    assert split.test == (("c/1.jpg", 2),)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"val": [["a/2.jpg", 0, "aunt"]]}, "val gives 'a/2.jpg' label 0 and class 'aunt'; before, label 0 was 'ant'"),
        ({"val": [["a/2.jpg", 4, "dog"]]}, "labels are not 0 to 3 without a gap"),
        ({"val": [["a/2.jpg", -1, "dog"]]}, "labels are not 0 to 3"),
        ({"val": [["a/1.jpg", 0, "ant"]]}, "val has path 'a/1.jpg', which is in train"),
        ({"val": [["../a.jpg", 0, "ant"]]}, "leaves the image folder"),
        ({"val": [["a/2.jpg", "0", "ant"]]}, "not a split file"),
        ({"test": None}, "not a split file"),
    ],
)
def test_a_wrong_split_of_coop_is_told_in_one_line(change, told, tmp_path):
    path = tmp_path / "split_zhou_Toy.json"
    path.write_text(json.dumps(COOP | change))
    with pytest.raises(errors.Corrupt) as error:
        splits.read_coop(path)
    text = str(error.value)
    assert told in text and text.startswith("split_zhou_Toy.json") and "\n" not in text


def test_an_empty_split_of_coop_is_refused(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": [], "val": [], "test": []}))
    with pytest.raises(errors.Corrupt, match="classes is empty"):
        splits.read_coop(path)


# -- packed files ------------------------------------------------------------------------------------


def test_a_packed_split_comes_back_and_a_damaged_one_is_corrupt(tmp_path):
    path = tmp_path / "split.json.gz"
    splits.save_split(TOY, path)
    data = path.read_bytes()
    assert splits.load_split(path) == TOY
    for damaged in (data[:-9], data[:30] + bytes([data[30] ^ 255]) + data[31:], data[:4]):
        path.write_bytes(damaged)
        with pytest.raises(errors.Corrupt, match=r"split\.json\.gz: not a split file"):
            splits.load_split(path)


def test_the_same_split_gives_the_same_packed_bytes(tmp_path):
    for name in ("a.gz", "b.gz"):
        splits.save_split(TOY, tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


@pytest.mark.parametrize("name", ["a/b.jpg", "ä/ß.jpg", 'a"b.jpg', "a\x7fb.jpg", "a\\b.jpg", "日本.png"])
def test_the_fast_digest_is_the_plain_one(name):
    from harness import files

    split = Split((name,), ((name, 0),), (), (("z", 0),))
    assert splits.split_digest(split) == files.digest_of([[name], [[name, 0]], [], [["z", 0]]])


def test_a_split_whose_paths_look_odd_but_stay_inside_is_taken(tmp_path):
    """Odd looks send the check from one look at all paths to one at each."""
    for odd in ("a..b.jpg", "a\n/b.jpg", "x\n\ny.jpg", "ab:c.jpg", "a/b\n\\c.jpg"):
        split = Split(("ant",), (("a.jpg", 0), (odd, 0)))
        splits.save_split(split, tmp_path / "split.json")
        assert splits.load_split(tmp_path / "split.json") == split
    for wrong in ("", "/b.jpg", "\\b.jpg", "c/../../b.jpg", "C:b.jpg", "a\0b"):
        with pytest.raises(errors.Corrupt, match="leaves the image folder"):
            splits.check_split(Split(("ant",), (("a.jpg", 0), (wrong, 0))), "toy")
