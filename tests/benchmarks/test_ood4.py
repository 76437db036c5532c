"""The four shifted test sets: labels by number or by wnid, 200 of 1,000 classes where a set has no more."""

import json
from pathlib import Path

import pytest

from benchmarks import SUITES, _imagenet
from harness import errors, find

SHARED = Path(__file__).parents[2] / "../shared/data"
OOD = SUITES["ood4"]


def reference(name):
    path = SHARED / "prompts/class_names.json"
    if not path.exists():
        pytest.skip("the reference data are not here")
    return json.loads(path.read_text())["ood"][name]


def tree(folder, names, images=("b.jpg", "a.JPEG")):
    for name in names:
        (folder / name).mkdir(parents=True)
        for image in images:
            (folder / name / image).touch()
    return folder


def folders_of(name):
    columns = find.dataset(name).columns or range(1000)
    return [_imagenet.wnids()[column] for column in columns]


def test_all_four_take_shots_and_settings_from_imagenet():
    for name in OOD:
        dataset, source = find.dataset(name), find.dataset("imagenet")
        assert dataset.source == "imagenet"
        assert dataset.templates == source.templates
        assert dataset.counts[:2] == (0, 0)


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_the_subset_is_the_published_one(name):
    assert list(find.dataset(name).columns) == reference(name)["imagenet_indices"]
    assert find.dataset(name).classes == 200


def test_a_and_r_are_different_subsets():
    a, r = (set(find.dataset(name).columns) for name in ("imagenet_a", "imagenet_r"))
    assert len(a) == len(r) == 200 and a != r


def test_timm_lists_the_same_classes():
    """An independent copy of the wnids of both subsets."""
    import importlib.util

    home = Path(importlib.util.find_spec("timm").origin).parent / "data/_info"
    for letter in "ar":
        path = home / f"imagenet_{letter}_synsets.txt"
        if not path.exists():
            pytest.skip("this version of timm has no such list")
        assert folders_of(f"imagenet_{letter}") == path.read_text().split()


@pytest.mark.parametrize("name", ["imagenet_sketch", "imagenet_a", "imagenet_r"])
@pytest.mark.parametrize("layout", ["coop", "plain"])
def test_wnid_folders_are_read_with_labels_that_the_columns_translate(name, layout, tmp_path):
    dataset = find.dataset(name)
    folder = tree(tmp_path / dataset.roots[0 if layout == "coop" else -1], folders_of(name))
    (folder / "README.txt").write_text("not a class")
    split = dataset.reader(folder)
    assert split.train == split.val == ()
    columns = dataset.columns or tuple(range(1000))
    assert len(split.test) == 2 * len(columns) == 2 * len(split.classes)
    for path, label in split.test:
        assert path.split("/")[0] == _imagenet.wnids()[columns[label]]
    assert split.classes == tuple(_imagenet.names()[column] for column in columns)
    assert [path.split("/")[1] for path, _ in split.test[:2]] == ["a.JPEG", "b.jpg"]


@pytest.mark.parametrize("layout", [0, 1])
def test_numbered_folders_are_sorted_as_integers(layout, tmp_path):
    dataset = find.dataset("imagenet_v2")
    folder = tree(tmp_path / dataset.roots[layout], map(str, range(1000)), images=("x.jpeg",))
    split = dataset.reader(folder)
    assert split.test == tuple((f"{label}/x.jpeg", label) for label in range(1000))
    assert split.classes == _imagenet.names()


def test_missing_strange_and_empty_folders_are_named(tmp_path):
    read = find.dataset("imagenet_a").reader
    folder = tree(tmp_path / "a", folders_of("imagenet_a")[1:])
    with pytest.raises(errors.Missing, match=rf"1 of 200 class folders are missing: {folders_of('imagenet_a')[0]}\."):
        read(folder)
    # the folders of R in place of A: many are missing, and that is told before any label is given
    with pytest.raises(errors.Missing, match=r"of 200 class folders are missing"):
        read(tree(tmp_path / "r", folders_of("imagenet_r")))
    whole = tree(tmp_path / "whole", folders_of("imagenet_a"))
    tree(whole, ["n01440764"])  # tench is no class of A
    with pytest.raises(errors.Corrupt, match="none of its 200 classes: n01440764"):
        read(whole)
    empty = tree(tmp_path / "empty", folders_of("imagenet_a"), images=("notes.txt",))
    with pytest.raises(errors.Missing, match=r"200 class folders hold no image: n01498041, .* and 195 more"):
        read(empty)


def test_a_folder_of_v2_that_is_not_a_number_is_named(tmp_path):
    folder = tree(tmp_path / "v2", [*map(str, range(1000)), "val"], images=("x.jpeg",))
    with pytest.raises(errors.Corrupt, match="none of its 1000 classes: val"):
        find.dataset("imagenet_v2").reader(folder)
