"""A user's folder becomes a data set: everything usable is in, everything else is named."""

import hashlib
import json
import os
import re
import shutil
import time
import unicodedata

import pytest

from harness import errors, files, folders, splits


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def is_fine(path):
    """Stand in for the real check: a file that holds "bad" is no image."""
    try:
        return "damaged" if b"bad" in path.read_bytes() else None
    except OSError as error:
        return error.strerror


def put(root, *paths, content=None):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content or str(path).encode())


def fill(root, **counts):
    """So many images for each class folder; `__` stands for a slash."""
    for name, count in counts.items():
        put(root, *(f"{name.replace('__', '/')}/{i}.jpg" for i in range(count)))


def add(path, name="mine", **options):
    return folders.add(path, name, **({"check": is_fine} | options))


def paths_of(split, part):
    return sorted(path for path, _ in getattr(split, part))


def all_paths(split):
    return sorted(paths_of(split, "train") + paths_of(split, "val") + paths_of(split, "test"))


def told(error):
    text = str(error.value)
    assert "\n" not in text
    return text


# -- layouts -----------------------------------------------------------------------------------------


def test_a_folder_of_class_folders_is_carved_by_the_stated_rule(root):
    fill(root, bee=10, ant=20)
    manifest, notes = add(root)
    split = manifest.split
    assert split.classes == ("ant", "bee")
    assert [len(part) for part in (split.train, split.val, split.test)] == [15, 6, 9]
    for name, label in (("ant", 0), ("bee", 1)):
        listed = sorted(f"{name}/{i}.jpg" for i in range(20 if name == "ant" else 10))
        train, val, test = splits.carve({name: listed}, 1)
        assert [path for path, y in split.train if y == label] == train[name]
        assert [path for path, y in split.val if y == label] == val[name]
        assert [path for path, y in split.test if y == label] == test[name]
    assert notes == ["Split: train 50 %, val 20 %, test 30 % of each class, drawn with seed 1."]


def test_the_same_folder_gives_the_same_split_and_another_seed_another(root):
    fill(root, ant=20, bee=20)
    first = add(root, "a")[0]
    assert add(root, "b")[0].split == first.split
    assert add(root, "b", force=True)[0].digest == first.digest
    assert add(root, "c", seed=2)[0].split != first.split


def test_nothing_is_copied_and_only_one_file_is_written(root, tmp_path):
    fill(root, ant=4, bee=4)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}
    add(root)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()} == before
    written = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert written == [tmp_path / "data" / "sets" / "mine" / "dataset.json"]
    assert json.loads(written[0].read_text())["format"] == "harness-dataset/1"


def test_given_parts_are_kept(root):
    fill(root, train__ant=3, train__bee=4, val__ant=2, val__bee=2, test__ant=2, test__bee=1)
    manifest, notes = add(root)
    assert paths_of(manifest.split, "train") == [
        *(f"train/ant/{i}.jpg" for i in range(3)), *(f"train/bee/{i}.jpg" for i in range(4)),
    ]  # fmt: skip
    assert len(manifest.split.val) == 4 and len(manifest.split.test) == 3
    assert notes == ["Split: as given."]


@pytest.mark.parametrize("name", ["valid", "validation", "Val", "VALIDATION"])
def test_the_validation_folder_may_have_other_names(root, name):
    fill(
        root, training__ant=3, training__bee=3, testing__ant=1, testing__bee=1, **{f"{name}__ant": 1, f"{name}__bee": 1}
    )
    split = add(root)[0].split
    assert paths_of(split, "val") == [f"{name}/ant/0.jpg", f"{name}/bee/0.jpg"]
    assert len(split.train) == 6 and len(split.test) == 2


def test_absent_parts_are_carved_from_train_and_said(root):
    fill(root, train__ant=10, train__bee=10, test__ant=3, test__bee=3)
    manifest, notes = add(root)
    assert [len(part) for part in (manifest.split.train, manifest.split.val, manifest.split.test)] == [16, 4, 6]
    assert notes == ["Split: test as given; train 80 %, val 20 % of each class, drawn with seed 1 out of train."]
    (root / "test").rename(root / "val")
    manifest, notes = add(root, force=True)
    assert [len(part) for part in (manifest.split.train, manifest.split.val, manifest.split.test)] == [14, 6, 6]
    assert notes == ["Split: val as given; train 70 %, test 30 % of each class, drawn with seed 1 out of train."]
    shutil.rmtree(root / "val")
    split = add(root, force=True)[0].split
    assert [len(part) for part in (split.train, split.val, split.test)] == [10, 4, 6]


def test_parts_without_train_or_given_twice_are_refused(root):
    fill(root, test__ant=2, val__ant=2)
    with pytest.raises(errors.UsageError, match="but no train folder"):
        add(root)
    fill(root, valid__ant=2)
    with pytest.raises(errors.UsageError, match="has 'val' and 'valid'; keep one"):
        add(root)


def test_parts_without_class_folders_are_refused(root):
    put(root, "train/1.jpg", "train/2.jpg", "test/3.jpg", "test/4.jpg")
    with pytest.raises(errors.UsageError, match="test, train hold no class folders; expected train/<class>/<image>"):
        add(root)


def test_a_class_may_be_called_train(root):
    fill(root, train=4, bus=4)
    assert add(root)[0].split.classes == ("bus", "train")
    fill(root, train__red=2)
    assert add(root, force=True)[0].split.classes == ("bus", "train")


def test_other_folders_beside_the_parts_are_ignored_and_said(root):
    fill(root, train__ant=4, train__bee=4, test__ant=1, test__bee=1, annotations__x=3)
    manifest, notes = add(root)
    assert manifest.split.classes == ("ant", "bee")
    assert "Folders beside train, val and test, ignored: 1 (annotations)." in notes


def test_images_are_found_in_folders_inside_class_folders(root):
    put(root, "ant/a/b/1.jpg", "ant/2.JPG", "bee/x/1.png", "bee/2.webp")
    assert all_paths(add(root)[0].split) == ["ant/2.JPG", "ant/a/b/1.jpg", "bee/2.webp", "bee/x/1.png"]


# -- names -------------------------------------------------------------------------------------------


def test_names_of_any_script_come_out_composed_and_with_spaces(root):
    fill(root, **{"golden_retriever": 2, unicodedata.normalize("NFD", "größe  x"): 2, "猫": 2, "a b": 2})
    split = add(root)[0].split
    assert split.classes == ("a b", "golden retriever", "größe x", "猫")
    _, again, where = folders.load_own("mine")
    assert all((where / path).is_file() for path, _ in again.train + again.val + again.test)


def test_names_that_differ_only_in_case_are_kept_apart_and_said(root):
    fill(root, Cat=2, cat=2)
    manifest, notes = add(root)
    assert manifest.split.classes == ("Cat", "cat")
    assert "Classes 'Cat' and 'cat' differ only in case: kept apart." in notes


def test_two_folders_that_mean_one_class_are_refused(root):
    fill(root, **{"a_b": 2, "a b": 2, "c": 2})
    with pytest.raises(errors.UsageError, match="folders 'a b' and 'a_b' both mean class 'a b'; rename one"):
        add(root)


def test_a_class_spelt_differently_in_two_parts_is_one_class(root):
    fill(root, **{"train/a_b": 4, "train/c": 4, "test/a b": 1, "test/c": 1})
    split = add(root)[0].split
    assert split.classes == ("a b", "c")
    assert [label for _, label in split.test] == [0, 1]


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_a_file_name_that_is_no_text_is_left_out_and_told(root):
    fill(root, ant=3, bee=3)
    try:
        (root / os.fsdecode(b"ant/\xff.jpg")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes Unicode only")
    manifest, notes = add(root)
    assert len(manifest.split.train + manifest.split.val + manifest.split.test) == 6
    assert "Image 'ant/\\udcff.jpg' has a name that cannot be stored: left out." in notes


def test_a_file_name_with_a_line_break_is_told_in_one_line(root):
    fill(root, ant=3, bee=3)
    put(root, "ant/x\ny.jpg", content=b"bad")
    _, notes = add(root)
    assert any("x\\ny.jpg" in note for note in notes)
    assert not any("\n" in note for note in notes)


# -- what cannot be used -----------------------------------------------------------------------------


def test_unreadable_images_are_left_out_and_named_with_their_number(root):
    fill(root, ant=5, bee=5)
    put(root, *(f"ant/x{i}.jpg" for i in range(7)), content=b"bad")
    manifest, notes = add(root)
    (note,) = [note for note in notes if note.startswith("Unreadable")]
    assert note.startswith("Unreadable images, left out: 7 (ant/x0.jpg (damaged), ant/x1.jpg (damaged)")
    assert note.endswith("ant/x4.jpg (damaged) and 2 more).")
    assert manifest.left_out == {f"ant/x{i}.jpg": "damaged" for i in range(7)}
    assert not any("x" in path.split("/")[1] for path in all_paths(manifest.split))


def test_other_files_are_ignored_and_counted_and_hidden_ones_passed_over(root):
    fill(root, ant=3, bee=3)
    put(root, "readme.txt", "ant/Thumbs.db", "ant/.hidden.jpg", ".git/x.jpg", "__MACOSX/ant/1.jpg", "bee/noext")
    manifest, notes = add(root)
    assert "Files ignored, because they are no images: 3 (readme.txt, ant/Thumbs.db, bee/noext)." in notes
    assert len(all_paths(manifest.split)) == 6
    assert manifest.split.classes == ("ant", "bee")


def test_a_copy_within_a_class_is_left_out(root):
    fill(root, ant=4, bee=4)
    put(root, "ant/9.jpg", content=b"ant/0.jpg")
    manifest, notes = add(root)
    assert "Copies, left out: 1 (ant/9.jpg = ant/0.jpg)." in notes
    assert "ant/0.jpg" in all_paths(manifest.split) and "ant/9.jpg" not in all_paths(manifest.split)


def test_an_image_with_two_classes_is_left_out_of_both(root):
    fill(root, ant=4, bee=4)
    put(root, "bee/9.jpg", content=b"ant/0.jpg")
    manifest, notes = add(root)
    assert "Images with several classes, left out: 1 (ant/0.jpg = bee/9.jpg)." in notes
    assert not {"ant/0.jpg", "bee/9.jpg"} & set(all_paths(manifest.split))


def test_an_image_in_train_and_test_stays_in_test_alone(root):
    fill(root, train__ant=4, train__bee=4, val__ant=2, val__bee=2, test__ant=2, test__bee=2)
    put(root, "train/ant/9.jpg", "val/ant/9.jpg", content=b"test/ant/0.jpg")
    put(root, "train/bee/9.jpg", content=b"val/bee/0.jpg")
    manifest, notes = add(root)
    (note,) = [note for note in notes if "because test or val has them" in note]
    assert ": 3 (train/ant/9.jpg = test/ant/0.jpg, val/ant/9.jpg = test/ant/0.jpg, train/bee/9.jpg = val" in note
    assert not any("9.jpg" in path for path in all_paths(manifest.split))
    assert "test/ant/0.jpg" in paths_of(manifest.split, "test")
    assert "val/bee/0.jpg" in paths_of(manifest.split, "val")


def test_no_image_is_in_two_parts_by_content(root):
    fill(root, ant=12, bee=12)
    for i in range(6):
        put(root, f"ant/copy{i}.jpg", content=f"ant/{i}.jpg".encode())
    split = add(root)[0].split
    contents = [hashlib.sha256((root / path).read_bytes()).digest() for path in all_paths(split)]
    assert len(set(contents)) == len(contents) == 24


def test_classes_that_cannot_be_divided_are_left_out_and_named(root):
    fill(root, ant=4, bee=4, cow=1)
    (root / "dog").mkdir()
    put(root, "emu/a.jpg", "emu/b.jpg", content=b"the same")
    manifest, notes = add(root)
    assert manifest.split.classes == ("ant", "bee")
    assert "Classes with fewer than two images, left out: 2 (cow, emu)." in notes
    assert "Class folders without images, left out: 1 (dog)." in notes
    assert manifest.left_out["cow/0.jpg"] == "its class has fewer than two images"


def test_a_class_without_training_images_is_left_out_and_one_without_test_images_is_said(root):
    fill(root, train__ant=4, train__bee=4, test__ant=1, test__cow=3)
    manifest, notes = add(root)
    assert manifest.split.classes == ("ant", "bee")
    assert "Classes with no training image, left out: 1 (cow)." in notes
    assert "Classes without a test image: 1 (bee)." in notes


def test_one_usable_class_is_too_few(root):
    fill(root, ant=4, bee=1)
    with pytest.raises(errors.UsageError, match=r"1 usable class in .*, at least two are needed\. Classes with fewer"):
        add(root)
    put(root, "ant/0.jpg", "ant/1.jpg", "ant/2.jpg", "ant/3.jpg", "bee/0.jpg", content=b"bad")
    with pytest.raises(errors.UsageError, match="0 usable classes") as error:
        add(root)
    told(error)
    assert folders.own_sets() == {}


def test_links_are_followed_but_not_in_circles(root, tmp_path):
    fill(root, bee=4)
    fill(tmp_path / "elsewhere", ant=4)
    (root / "ant").symlink_to(tmp_path / "elsewhere" / "ant", target_is_directory=True)
    (root / "bee" / "loop").symlink_to(root, target_is_directory=True)
    (root / "bee" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    manifest, notes = add(root)
    assert len(all_paths(manifest.split)) == 8
    assert "Folder bee/loop links to a folder above it: ignored." in notes
    assert "Unreadable images, left out: 1 (bee/gone.jpg (No such file or directory))." in notes


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_listed_is_told(root):
    fill(root, ant=4, bee=4, cow=4)
    (root / "cow").chmod(0)
    _, notes = add(root)
    (root / "cow").chmod(0o755)
    assert "Folder cow cannot be listed: Permission denied." in notes


def test_a_listing_that_fails_is_told(root, monkeypatch):
    fill(root, ant=4, bee=4, cow=4)
    listed = folders.Path.iterdir

    def refuse(path):
        if path.name == "cow":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(folders.Path, "iterdir", refuse)
    manifest, notes = add(root)
    assert "Folder cow cannot be listed: Permission denied." in notes
    assert manifest.split.classes == ("ant", "bee")


def test_a_file_that_goes_away_while_it_is_read_is_left_out(root):
    fill(root, ant=4, bee=4)

    def check(path):
        if path.name == "0.jpg":
            path.unlink()
        return None

    _, notes = add(root, check=check)
    assert any(note.startswith("Unreadable images, left out: 2 (ant/0.jpg (No such file") for note in notes)


# -- asking wrongly ----------------------------------------------------------------------------------


def test_what_is_not_there_or_holds_nothing_is_told(root, tmp_path):
    with pytest.raises(errors.Missing, match="does not exist; give a folder of images or a CSV"):
        add(tmp_path / "none")
    with pytest.raises(errors.UsageError, match="has no sub-folders; expected one per class"):
        add(root)
    put(root, "ant/x.txt")
    with pytest.raises(errors.UsageError, match="holds no images"):
        add(root)


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "a {} of {x}", "a {0}", "", "{{}}"])
def test_a_template_without_a_place_for_the_class_is_refused(root, template):
    fill(root, ant=4, bee=4)
    with pytest.raises(errors.UsageError, match=r"needs \{\} once for the class name") as error:
        add(root, templates=["a photo of a {}.", template])
    assert repr(template) in told(error)
    with pytest.raises(errors.UsageError, match="no template given"):
        add(root, templates=[])


def test_a_name_that_is_taken_is_refused(root):
    fill(root, ant=4, bee=4)
    with pytest.raises(errors.UsageError, match="name 'demo-shapes' is taken by 'demo_shapes'"):
        add(root, "demo-shapes", taken=["demo_shapes"], force=True)
    add(root)
    with pytest.raises(errors.UsageError, match="'mine' is added already; replace it with --force"):
        add(root)
    with pytest.raises(errors.UsageError, match="name 'Mine' is taken by 'mine'"):
        add(root, "Mine")
    add(root, force=True, templates=["just {}"])
    assert folders.load_own("mine")[0].templates == ("just {}",)
    with pytest.raises(errors.UsageError, match="use letters, digits"):
        add(root, "my set")


# -- a CSV -------------------------------------------------------------------------------------------


def table(path, *lines, encoding="utf-8"):
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def test_a_csv_lists_images_beside_it(root):
    fill(root, pics=8)
    lines = [f"pics/{i}.jpg,{'golden_retriever' if i % 2 else 'Zürich, city'}" for i in range(8)]
    lines = [re.sub(r",(Z.*)", r',"\1"', line) for line in lines]
    split = add(table(root / "list.csv", "path,class", *lines, "", encoding="utf-8-sig"))[0].split
    assert split.classes == ("Zürich, city", "golden retriever")
    assert all_paths(split) == [f"pics/{i}.jpg" for i in range(8)]
    assert {label for path, label in split.train if path in ("pics/0.jpg", "pics/2.jpg", "pics/4.jpg")} <= {0}


def test_a_csv_may_divide_the_images(root):
    fill(root, p=8)
    parts = ["train", "Train", "train", "training", "valid", "val", "test", "test"]
    lines = [f"{'ab'[i % 2]}, p/{i}.jpg ,{part}" for i, part in enumerate(parts)]
    manifest, notes = add(table(root / "list.csv", "Class,Path,Split", *lines))
    assert paths_of(manifest.split, "train") == [f"p/{i}.jpg" for i in range(4)]
    assert manifest.split.val == (("p/4.jpg", 0), ("p/5.jpg", 1))
    assert notes == ["Split: as given."]


def test_a_csv_may_name_images_anywhere(root, tmp_path):
    fill(tmp_path / "one", a=4)
    fill(tmp_path / "two", b=4)
    lines = [f"{tmp_path}/one/a/{i}.jpg,a" for i in range(4)] + [f"../two/b/{i}.jpg,b" for i in range(4)]
    add(table(root / "list.csv", "path,class", *lines))
    _, split, where = folders.load_own("mine")
    assert where == tmp_path
    assert all_paths(split)[0] == "one/a/0.jpg" and len(all_paths(split)) == 8


def test_missing_files_of_a_csv_are_named_and_repeated_lines_are_copies(root):
    fill(root, a=3, b=3)
    lines = [f"{name}/{i}.jpg,{name}" for name in "ab" for i in range(4)] + ["a/0.jpg,a", "notes.txt,a"]
    manifest, notes = add(table(root / "list.csv", "path,class,width", *(f"{line},1" for line in lines)))
    assert len(all_paths(manifest.split)) == 6
    assert notes[:3] == [
        "Columns of list.csv that are not used: width.",
        "Files ignored, because they are no images: 1 (notes.txt).",
        "Unreadable images, left out: 2 (a/3.jpg (No such file or directory), b/3.jpg (No such file or directory)).",
    ]


def test_a_line_repeated_in_another_part_or_class_counts_as_a_copy(root):
    fill(root, a=4, b=4)
    lines = [f"{name}/{i}.jpg,{name},{'train' if i < 3 else 'test'}" for name in "ab" for i in range(4)]
    lines += ["a/3.jpg,a,train", "b/0.jpg,a,train"]
    manifest, notes = add(table(root / "list.csv", "path,class,split", *lines))
    assert paths_of(manifest.split, "test") == ["a/3.jpg", "b/3.jpg"]
    assert "Images with several classes, left out: 1 (b/0.jpg)." in notes
    assert "Images left out of train or val, because test or val has them: 1 (a/3.jpg = a/3.jpg)." in notes
    assert "b/0.jpg" not in all_paths(manifest.split)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a/0.jpg,a\na/1.jpg,b\n", "the first line is 'a/0.jpg,a', expected the columns path,class[,split]"),
        ("path;class\na/0.jpg;a\n", "the first line is 'path;class'"),
        ("", "the first line is ''"),
        ("path,class\na/0.jpg\n", "line 2 is 'a/0.jpg', expected path,class"),
        ("path,class\na/0.jpg,\n", "line 2 is 'a/0.jpg,', expected path,class"),
        ("path,class,split\na/0.jpg,a,dev\n", "line 2: split is 'dev', expected train, val or test"),
        ("path,class,split\na/0.jpg,a,train\na/1.jpg,a,\n", "split is given in some lines only"),
        ('path,class\n"a/0.jpg,a\n', "cannot be read as a CSV"),
        ("path,class\n", "holds no images"),
    ],
)
def test_a_wrong_csv_is_told_in_one_line(root, content, message):
    fill(root, a=2)
    (root / "list.csv").write_text(content)
    with pytest.raises(errors.UsageError) as error:
        add(root / "list.csv")
    assert message in told(error) and "list.csv" in told(error)


def test_a_csv_of_other_bytes_is_told(root):
    (root / "list.csv").write_bytes(b"path,class\n\xff\xfe,a\n")
    with pytest.raises(errors.UsageError, match="cannot be read as a CSV"):
        add(root / "list.csv")


# -- coming back -------------------------------------------------------------------------------------


def test_a_set_comes_back_as_it_was_added(root):
    fill(root, ant=4, bee=4)
    manifest, notes = add(root, templates=["a {}.", "the {}."])
    assert folders.own_sets() == {"mine": files.data_root() / "sets" / "mine"}
    dataset, split, where = folders.load_own("mine")
    assert (dataset.name, dataset.templates) == ("mine", ("a {}.", "the {}."))
    assert split == manifest.split and where == root
    assert folders.read_manifest("mine") == manifest
    assert dataset.note == " ".join(notes)


def test_the_digest_is_of_contents_and_not_of_places(root, tmp_path):
    fill(root, ant=4, bee=4)
    first = add(root, "one")[0]
    shutil.copytree(root, tmp_path / "copy")
    assert add(tmp_path / "copy", "two")[0].digest == first.digest
    put(tmp_path / "copy", "ant/0.jpg", content=b"other")
    assert add(tmp_path / "copy", "three")[0].digest != first.digest


def test_missing_and_changed_images_are_noticed(root):
    fill(root, ant=4, bee=4)
    add(root)
    stat = (root / "ant/0.jpg").stat()
    os.utime(root / "ant/0.jpg", ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    folders.load_own("mine")  # touched, but the same
    put(root, "ant/0.jpg", content=b"xxx/0.jpg")
    with pytest.raises(
        errors.NotComparable, match=r"mine: ant/0\.jpg is not as added \(1 of 8 images below .*--force"
    ) as error:
        folders.load_own("mine")
    told(error)
    (root / "bee/1.jpg").unlink()
    (root / "bee/2.jpg").unlink()
    with pytest.raises(errors.Missing, match=r"mine: bee/.\.jpg is gone \(2 of 8 images"):
        folders.load_own("mine")
    root.rename(root.with_name("moved"))
    with pytest.raises(errors.Missing, match=r"its image folder .* is gone"):
        folders.load_own("mine")


def test_an_unknown_set_is_told_with_its_neighbours(root):
    fill(root, ant=4, bee=4)
    add(root)
    with pytest.raises(errors.Missing, match=r"No own data set named 'mime'\. Did you mean mine"):
        folders.load_own("mime")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda text: text[:-5], errors.Corrupt, "truncated"),
        (lambda text: text.replace('"ant"', '"cow"'), errors.Corrupt, "altered after it was written"),
        (lambda text: text.replace("dataset/1", "dataset/2"), errors.UsageError, "format is 'harness-dataset/2'"),
        (lambda text: text.replace('"seed":1', '"seed":"1"'), errors.Corrupt, "seed"),
    ],
)
def test_a_damaged_manifest_is_told_with_what_to_type(root, change, kind, message):
    fill(root, ant=4, bee=4)
    add(root)
    path = folders.own_sets()["mine"] / "dataset.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(kind, match=message) as error:
        folders.load_own("mine")
    assert "harness data add PATH --name mine --force" in told(error)
    assert list(folders.own_sets()) == ["mine"]


# -- with real images --------------------------------------------------------------------------------


def test_real_images_are_checked_and_progress_is_told(root):
    image = pytest.importorskip("PIL.Image")
    for number in range(8):
        (root / "ab"[number % 2]).mkdir(exist_ok=True)
        image.effect_noise((16, 16), 50).save(root / "ab"[number % 2] / f"{number}.png")
    (root / "a" / "cut.png").write_bytes((root / "a" / "0.png").read_bytes()[:100])
    (root / "a" / "empty.jpg").write_bytes(b"")
    steps = []
    manifest, _ = folders.add(root, "mine", progress=lambda done, total: steps.append((done, total)))
    assert set(manifest.left_out) == {"a/cut.png", "a/empty.jpg"}
    assert steps == [(done, 10) for done in range(1, 11)]


def test_an_interrupt_does_not_wait_for_the_rest(root):
    fill(root, ant=200, bee=200)
    seen = []

    def slow(path):
        seen.append(path)
        time.sleep(0.01)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(root, check=slow, progress=stop)
    assert len(seen) < 100
    assert folders.own_sets() == {}
