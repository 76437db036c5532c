"""The eleven data sets say what the field uses, and each is read from a miniature in both layouts that people have."""

import gzip
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import SUITES, _folders, _imagenet, _origins
from harness import errors, find, prompts, splits

SHARED = Path(__file__).parents[2] / "../shared/data"
CORE = SUITES["core11"]
WITH_FILE = tuple(name for name in CORE if name not in ("imagenet", "fgvc_aircraft"))


def reference(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip("the reference data are not here")
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if name.endswith(".gz") else data)


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def picture(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(path)


def declared(name):
    return find.dataset(name).prompt_sets


# -- what the files say ------------------------------------------------------------------------------

TABLE = {
    "imagenet": (1000, 1281167, 50000),
    "caltech101": (100, 4128 + 1649, 2465),
    "oxford_pets": (37, 2944 + 736, 3669),
    "stanford_cars": (196, 6509 + 1635, 8041),
    "flowers102": (102, 4093 + 1633, 2463),
    "food101": (101, 50500 + 20200, 30300),
    "fgvc_aircraft": (100, 3334 + 3333, 3333),
    "sun397": (397, 15880 + 3970, 19850),
    "dtd": (47, 2820 + 1128, 1692),
    "eurosat": (10, 13500 + 5400, 8100),
    "ucf101": (101, 7639 + 1898, 3783),
}


def test_the_suite_is_the_field_s():
    assert set(CORE) == set(TABLE)


@pytest.mark.parametrize("name", [*CORE, *SUITES["ood4"]])
def test_a_data_set_says_all_that_is_needed_to_get_and_to_judge_it(name):
    dataset = find.dataset(name)
    assert dataset.licence and dataset.citation and dataset.note and dataset.archives
    assert (dataset.reader is None) != (dataset.split_file is None)
    assert len(set(dataset.roots)) == len(dataset.roots) > 0
    for root in dataset.roots:
        assert splits.stays_inside(root) and not root.endswith("/")
    files = [*dataset.archives, *([dataset.split_file] if dataset.split_file else [])]
    for remote in files:
        assert remote.urls or remote.by_hand
        assert all(re.fullmatch(r"https?://\S+", url) for url in remote.urls)
        assert re.fullmatch(r"([0-9a-f]{64})?", remote.sha256) and re.fullmatch(r"([0-9a-f]{32})?", remote.md5)
        assert re.fullmatch(r"([0-9a-f]{40})?", remote.git_blob)
        assert "\n" not in remote.by_hand
    if name in TABLE:
        train, val, test = dataset.counts
        assert (dataset.classes, train + val, test) == TABLE[name]


@pytest.mark.parametrize("name", WITH_FILE)
def test_a_split_file_is_pinned_to_a_commit_and_known_by_a_hash(name):
    remote = find.dataset(name).split_file
    assert remote.git_blob
    assert len(remote.urls) == 3
    for url in remote.urls:
        assert re.search(r"/[0-9a-f]{40}/", url) and url.endswith("/" + remote.file)


def test_nothing_unverified_is_fetched_but_what_is_named_here():
    """A fact could not be had: these archives have no hash, so only their images can be counted."""
    unverified = {name for name in CORE for remote in find.dataset(name).archives if not (remote.sha256 or remote.md5)}
    assert unverified == {"stanford_cars", "sun397", "ucf101"}


@pytest.mark.parametrize("name", WITH_FILE)
def test_the_first_root_is_the_layout_of_coop(name):
    for form in ("", ".partial"):
        if (SHARED / f"splits/{name}{form}.json.gz").exists():
            assert find.dataset(name).roots[0] == reference(f"splits/{name}{form}.json.gz")["image_root"]
            return
    pytest.skip("the reference data are not here")


# -- prompts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CORE)
def test_templates_are_those_of_coop_and_of_openai(name):
    templates = reference("prompts/templates.json")
    assert find.dataset(name).templates == (templates["coop_single"][name],)
    openai = declared(name)["openai"]
    if name == "imagenet":
        assert prompts.prompts_for(find.dataset(name), ["x"], "openai").counts == [80]
    else:
        assert list(openai) == templates["openai_per_dataset"][name]


# classes, sentences, bytes and sha256 of gpt3_prompts/ in vishaal27/SuS-X, as computed from that commit
CUPL = {
    "caltech101": (314962, "b5c3f52be95a1e45"), "dtd": (244279, "b5d2ae76c1e8e5de"), "eurosat": (23206, "c1831f13dff8f8f2"),
    "fgvc_aircraft": (218796, "3d0733867fa1e30a"), "flowers102": (281139, "904c8850eafeaa1c"),
    "food101": (321255, "0aed280ca518c37a"), "imagenet": (2185813, "ab8edaa47cb8050e"),
    "oxford_pets": (119757, "f393a01f911ceed7"), "stanford_cars": (1232735, "8b84424728b57442"),
    "sun397": (1160182, "b6e2c68f1cfaad78"), "ucf101": (211913, "f685a1d6e8b1316a"),
}  # fmt: skip


@pytest.mark.parametrize("name", CORE)
def test_sentences_are_pinned_and_verified(name):
    remote = declared(name)["cupl"]
    assert (remote.bytes, remote.sha256[:16]) == CUPL[name] and len(remote.sha256) == 64
    assert remote.urls == (_origins.SENTENCES + remote.file,)


@pytest.mark.parametrize("name", CORE)
def test_class_names_stay_apart_when_they_are_matched_with_keys(name):
    """The keys of the sentences are matched without case and underscores: no two classes may fall together."""
    names = reference("prompts/class_names.json")
    classes = names["imagenet"]["classnames"] if name == "imagenet" else names["datasets"][name]
    keys = find.dataset(name).sentence_keys
    assert len({prompts._plain(keys.get(label, own)) for label, own in enumerate(classes)}) == len(classes)


def test_the_classes_that_share_a_name_have_sentences_of_their_own():
    sentence_keys = find.dataset("imagenet").sentence_keys
    same = {label for label, name in enumerate(_imagenet.names()) if _imagenet.names().count(name) > 1}
    assert same == {657, 744, 836, 837}
    assert {_imagenet.names()[label] for label in sentence_keys} == {"missile", "sunglasses"}
    # n04008634 is "projectile, missile" in WordNet and n04355933 "sunglass"; the other two keep the common name
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    assert [_IMAGENET_CATEGORIES[label] for label in sentence_keys] == list(sentence_keys.values())
    assert {_imagenet.wnids()[label]: key for label, key in sentence_keys.items()} == {
        "n04008634": "projectile",
        "n04355933": "sunglass",
    }


# -- readers on miniatures ---------------------------------------------------------------------------

# a true entry of each split, as it stands in CoOp's file: path and label
ENTRIES = {
    "caltech101": ["Faces/image_0274.jpg", 0, "face"],
    "oxford_pets": ["Abyssinian_122.jpg", 0, "abyssinian"],
    "stanford_cars": ["cars_train/05266.jpg", 0, "2000 AM General Hummer SUV"],
    "flowers102": ["image_00190.jpg", 0, "pink primrose"],
    "food101": ["apple_pie/1112838.jpg", 0, "apple_pie"],
    "sun397": ["a/abbey/sun_aaoktempcmudsvna.jpg", 0, "abbey"],
    "dtd": ["banded/banded_0133.jpg", 0, "banded"],
    "eurosat": ["AnnualCrop/AnnualCrop_1381.jpg", 0, "Annual Crop Land"],
    "ucf101": ["Apply_Eye_Makeup/v_ApplyEyeMakeup_g12_c03.jpg", 0, "Apply_Eye_Makeup"],
}


@pytest.mark.parametrize("name", WITH_FILE)
def test_entries_of_the_split_are_paths_below_every_known_root(name, tmp_path):
    dataset, entry = find.dataset(name), ENTRIES[name]
    (tmp_path / dataset.split_file.file).write_text(json.dumps({"train": [entry], "val": [], "test": []}))
    split = splits.read_coop(tmp_path / dataset.split_file.file)
    assert split.classes == (entry[2],) and split.train == ((entry[0], 0),)
    for root in dataset.roots:
        touch(tmp_path / root / entry[0])
        assert all((tmp_path / root / path).is_file() for path, _ in split.train)


@pytest.mark.parametrize(
    "name", ["caltech101", "oxford_pets", "stanford_cars", "flowers102", "dtd", "eurosat", "ucf101"]
)
def test_the_true_split_cut_down_is_read_in_its_order(name, tmp_path):
    data = reference(f"splits/{name}.json.gz")
    names = data["classnames"]
    document = {}
    for part in ("train", "val", "test"):  # the first image of every class, in the order of the file
        first = dict(zip(reversed(data[part]["labels"]), reversed(data[part]["paths"]), strict=True))
        document[part] = [[path, label, names[label]] for label, path in reversed(first.items())]
    path = tmp_path / find.dataset(name).split_file.file
    path.write_text(json.dumps(document))
    split = splits.read_coop(path)
    assert split.classes == tuple(names)
    assert [[p, label, names[label]] for p, label in split.train] == document["train"]
    assert len(splits.draw_shots(split, 1, 1).train) == find.dataset(name).classes


def test_torchvision_sees_the_same_files_of_eurosat(tmp_path):
    from torchvision.datasets import EuroSAT

    dataset = find.dataset("eurosat")
    picture(
        *(tmp_path / dataset.roots[0] / name / f"{name}_{i}.jpg" for name in ("AnnualCrop", "SeaLake") for i in (1, 2))
    )
    seen = {
        Path(path).relative_to(tmp_path / dataset.roots[0]).as_posix() for path, _ in EuroSAT(str(tmp_path)).samples
    }
    assert seen == {f"{name}/{name}_{i}.jpg" for name in ("AnnualCrop", "SeaLake") for i in (1, 2)}


def test_torchvision_finds_caltech_and_sun_where_our_second_root_is(tmp_path):
    from torchvision.datasets import SUN397, Caltech101

    assert (
        "SUN397" in find.dataset("sun397").roots
        and "caltech101/101_ObjectCategories" in find.dataset("caltech101").roots
    )
    picture(tmp_path / "caltech101/101_ObjectCategories/accordion/image_0001.jpg")
    for name in ("101_ObjectCategories/BACKGROUND_Google", "Annotations"):
        (tmp_path / "caltech101" / name).mkdir()
    assert [Caltech101(str(tmp_path)).categories[0], len(Caltech101(str(tmp_path)))] == ["accordion", 1]
    picture(tmp_path / "SUN397/a/abbey/sun_x.jpg")
    (tmp_path / "SUN397/ClassName.txt").write_text("/a/abbey\n")
    assert len(SUN397(str(tmp_path))) == 1


# -- FGVC-Aircraft -----------------------------------------------------------------------------------

LISTS = {
    "variants.txt": "707-320\nA300B4\nF/A-18\n",
    "images_variant_train.txt": "1025794 707-320\n0056978 F/A-18\n0000003 A300B4\n",
    "images_variant_val.txt": "0000004 A300B4\n",
    "images_variant_test.txt": "0000005 F/A-18\n0000006 707-320\n",
}


def aircraft(folder):
    for name, text in LISTS.items():
        (folder.parent / name).write_text(text)
    for name in ("1025794", "0056978", "0000003", "0000004", "0000005", "0000006"):
        picture(folder / f"{name}.jpg")


@pytest.mark.parametrize("root", find.dataset("fgvc_aircraft").roots)
def test_aircraft_are_read_from_the_official_lists_in_their_order(root, tmp_path):
    folder = tmp_path / root
    folder.mkdir(parents=True)
    aircraft(folder)
    split = find.dataset("fgvc_aircraft").reader(folder)
    assert split.classes == ("707-320", "A300B4", "F/A-18")
    assert split.train == (("1025794.jpg", 0), ("0056978.jpg", 2), ("0000003.jpg", 1))
    assert split.val == (("0000004.jpg", 1),)
    assert split.test == (("0000005.jpg", 2), ("0000006.jpg", 0))


def test_torchvision_reads_the_same_aircraft(tmp_path):
    from torchvision.datasets import FGVCAircraft

    folder = tmp_path / "fgvc-aircraft-2013b/data/images"
    folder.mkdir(parents=True)
    aircraft(folder)
    split = find.dataset("fgvc_aircraft").reader(folder)
    for part in ("train", "val", "test"):
        theirs = FGVCAircraft(str(tmp_path), part, "variant")
        found = [(Path(path).name, label) for path, label in zip(theirs._image_files, theirs._labels, strict=True)]
        assert tuple(found) == getattr(split, part)
        assert tuple(theirs.classes) == split.classes


def test_the_official_training_list_gives_coop_s(tmp_path):
    data = reference("splits/fgvc_aircraft.partial.json.gz")
    names, train = data["classnames"], data["train"]
    (tmp_path / "images").mkdir()
    lines = [
        f"{path.removesuffix('.jpg')} {names[label]}"
        for path, label in zip(train["paths"], train["labels"], strict=True)
    ]
    for name, text in {
        "variants": names,
        "images_variant_train": lines,
        "images_variant_val": [],
        "images_variant_test": [],
    }.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(text) + "\n")
    touch(*(tmp_path / "images" / path for path in train["paths"]))
    split = find.dataset("fgvc_aircraft").reader(tmp_path / "images")
    assert split.classes == tuple(names)
    assert split.train == tuple(zip(train["paths"], train["labels"], strict=True))


def test_what_is_wrong_with_a_folder_of_aircraft_is_named(tmp_path):
    read, folder = find.dataset("fgvc_aircraft").reader, tmp_path / "images"
    folder.mkdir()
    with pytest.raises(errors.Missing, match=r"variants\.txt: cannot be read.*lie beside the image folder"):
        read(folder)
    aircraft(folder)
    (folder / "0000004.jpg").unlink()
    with pytest.raises(errors.Missing, match=r"1 images of the official lists are missing: 0000004\.jpg"):
        read(folder)
    (tmp_path / "images_variant_val.txt").write_text("0000004 A300\n")
    with pytest.raises(errors.Corrupt, match=r"images_variant_val\.txt: gives image '0000004' the class 'A300'"):
        read(folder)
    (tmp_path / "images_variant_val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(errors.Corrupt, match="is not text"):
        read(folder)


# -- ImageNet ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_imagenet(tmp_path_factory):
    """1,000 class folders with 6 training images and 1 validation image each, in the layout of CoOp."""
    folder = tmp_path_factory.mktemp("data") / "imagenet/images"
    for label, wnid in enumerate(_imagenet.wnids()):
        touch(*(folder / "train" / wnid / f"{wnid}_{number}.JPEG" for number in (10, 9, 300, 1, 2, 55)))
        touch(folder / "val" / wnid / f"ILSVRC2012_val_{50000 - label:08}.JPEG")
    touch(folder / "train/README.txt", folder / "train/.hidden/x", folder / "val/__MACOSX/x.jpg")
    return folder


def test_imagenet_is_labelled_by_the_rank_of_the_wnid(tiny_imagenet):
    split = find.dataset("imagenet").reader(tiny_imagenet)
    wnids = sorted(path.name for path in (tiny_imagenet / "train").glob("n*"))
    assert len(wnids) == 1000
    for path, label in (*split.train, *split.val, *split.test):
        assert path.split("/")[1] == wnids[label]
    assert split.classes[0] == "tench" and split.classes[999] == "toilet paper"
    assert (len(split.train), len(split.val), len(split.test)) == (5000, 1000, 1000)


def test_validation_images_come_out_of_the_training_images_by_a_seed_and_never_out_of_the_test(tiny_imagenet):
    import random

    split = find.dataset("imagenet").reader(tiny_imagenet)
    assert all(path.startswith("train/") for path, _ in (*split.train, *split.val))
    assert all(path.startswith("val/") for path, _ in split.test)
    assert not set(split.train) & set(split.val)
    wnid = _imagenet.wnids()[7]
    files = sorted(f"{wnid}_{number}.JPEG" for number in (10, 9, 300, 1, 2, 55))
    held = random.Random(f"1:{wnid}").sample(files, 1)
    assert [path for path, label in split.val if label == 7] == [f"train/{wnid}/{held[0]}"]
    left = [path.rpartition("/")[2] for path, label in split.train if label == 7]
    assert left == [file for file in files if file not in held]  # sorted by code point
    assert split == find.dataset("imagenet").reader(tiny_imagenet)


def test_ten_validation_images_of_a_full_class(monkeypatch, tmp_path):
    files = [f"{number}.JPEG" for number in range(1300)]
    monkeypatch.setattr(_imagenet, "by_class", lambda folder, classes: [files] * 1000)
    monkeypatch.setattr(_imagenet, "_test", lambda folder: [("val/x.JPEG", 0)])
    split = _imagenet.read(tmp_path)
    assert (len(split.train), len(split.val)) == (1290 * 1000, 10 * 1000)
    assert find.dataset("imagenet").counts == (1281167 - 10000, 10000, 50000)


def flat(tmp_path, tiny_imagenet):
    """The validation images as the archive has them: 1,000 files in no folders."""
    folder = tmp_path / "imagenet"
    folder.mkdir()
    (folder / "train").symlink_to(tiny_imagenet / "train")
    touch(*(folder / f"val/ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 1001)))
    return folder


def test_validation_images_in_no_folders_are_labelled_by_the_devkit(tmp_path, tiny_imagenet):
    import numpy as np
    from scipy.io import savemat

    folder = flat(tmp_path, tiny_imagenet)
    with pytest.raises(errors.Missing, match=r"1000 images are in no class folders; put ILSVRC2012_devkit_t12"):
        _imagenet.read(folder)
    home = folder / "ILSVRC2012_devkit_t12/data"
    home.mkdir(parents=True)
    wnids = list(_imagenet.wnids())
    number_of = {wnid: 1 + (label * 7) % 1000 for label, wnid in enumerate(wnids)}  # an order of its own
    rows = [(number, wnid) for wnid, number in number_of.items()] + [(1001, "n00001740")]  # and inner nodes of the tree
    synsets = np.array(rows, dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    savemat(home / "meta.mat", {"synsets": synsets.reshape(-1, 1)})
    truth = [number_of[wnids[(at * 3) % 1000]] for at in range(1000)]
    (home / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, truth)) + "\n")
    split = _imagenet.read(folder)
    assert split.test[:3] == tuple((f"val/ILSVRC2012_val_{n:08}.JPEG", label) for n, label in ((1, 0), (2, 3), (3, 6)))
    assert [label for _, label in split.test] == [(at * 3) % 1000 for at in range(1000)]
    (folder / "val/ILSVRC2012_val_00000007.JPEG").unlink()
    with pytest.raises(errors.Missing, match="tells the classes of 1000 images; 999 are there"):
        _imagenet.read(folder)


def test_validation_images_in_no_folders_are_labelled_by_kaggle_s_list(tmp_path, tiny_imagenet):
    folder = flat(tmp_path, tiny_imagenet)
    lines = ["ImageId,PredictionString"]
    lines += [f"ILSVRC2012_val_{n:08},{_imagenet.wnids()[1000 - n]} 85 131 499 499" for n in range(1, 1001)]
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(lines))
    split = _imagenet.read(folder)
    assert split.test[0] == ("val/ILSVRC2012_val_00000001.JPEG", 999)
    assert [label for _, label in split.test] == list(range(999, -1, -1))
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(lines[:-2]))
    with pytest.raises(errors.Corrupt, match="does not tell the class of 2 images: ILSVRC2012_val_00000999"):
        _imagenet.read(folder)


def test_what_is_wrong_with_a_tree_of_imagenet_is_named(tmp_path, tiny_imagenet):
    import shutil

    folder = tmp_path / "images"
    with pytest.raises(errors.Missing, match=r"train: cannot be listed: No such file"):
        _imagenet.read(folder)
    shutil.copytree(tiny_imagenet, folder)
    wnids = _imagenet.wnids()
    for path in (folder / "val" / wnids[5]).iterdir():
        path.unlink()
    with pytest.raises(errors.Missing, match=rf"val: 1 class folders hold no image: {wnids[5]}\."):
        _imagenet.read(folder)
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    with pytest.raises(errors.Missing, match="holds neither class folders nor images"):
        _imagenet.read(folder)
    (folder / "train/lost").mkdir()
    with pytest.raises(errors.Corrupt, match="none of its 1000 classes: lost; take them out"):
        _imagenet.read(folder)
    for wnid in wnids[:7]:
        shutil.rmtree(folder / "train" / wnid)
    with pytest.raises(errors.Missing, match=rf"7 of 1000 class folders are missing: {wnids[0]}, .* and 2 more"):
        _imagenet.read(folder)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    import os

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(errors.Missing, match=r"locked: cannot be listed: Permission denied"):
        _folders.images(tmp_path / "locked")


def test_each_folder_is_listed_once(tiny_imagenet, monkeypatch):
    import os
    from collections import Counter

    listed, real = Counter(), os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.update([str(path)]), real(path))[1])
    _imagenet.read(tiny_imagenet)
    assert max(count for path, count in listed.items() if "/n" in path) == 1
    assert len(listed) == 2 + 2 * 1000 and max(listed.values()) <= 2


def test_wnids_and_names_are_the_field_s():
    names = reference("prompts/class_names.json")["imagenet"]
    assert list(_imagenet.wnids()) == names["wnids"] == sorted(names["wnids"])
    assert list(_imagenet.names()) == names["classnames"]
    assert len(set(_imagenet.names())) == 998


def test_other_class_names_in_open_clip_are_noticed(monkeypatch):
    monkeypatch.setattr(_imagenet, "NAMES_SHA256", "0" * 64)
    with pytest.raises(errors.Corrupt, match="other ImageNet class names"):
        _imagenet.names.__wrapped__()
    monkeypatch.setattr(_imagenet.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.Missing, match="open_clip is not installed"):
        _imagenet.names.__wrapped__()
