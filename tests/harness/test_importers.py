"""Features from elsewhere are taken whole and sound, or refused in one line; the original is left alone."""

import json
import pickle
import shutil

import pytest
import torch

from harness import cache, errors, files, importers

C, D, K = 5, 16, 4


def unit(tensor):
    return torch.nn.functional.normalize(tensor, dim=-1)


def rows(text, each, seed):
    """Noisy copies of the text rows: (N, D) and their labels (N,)."""
    label = torch.arange(C).repeat(each)
    noise = torch.randn(len(label), D, generator=torch.Generator().manual_seed(seed))
    return unit(text[label] + 0.15 * noise), label


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text():
    return unit(torch.randn(C, D, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def pack(tmp_path, text):
    parts = {part: dict(zip(("image", "label"), rows(text, 12, seed), strict=True))
             for seed, part in enumerate(("train", "val", "test"), 1)}  # fmt: skip
    return cache.write_pack(
        tmp_path / "given" / "pack",
        dataset="flowers",
        encoder="tiny",
        classes=list("abcde"),
        scale=100.0,
        parts=parts | {"text": {"weight": text}},
    )


def snapshot(folder):
    return {path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def told(error):
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


# -- packs -------------------------------------------------------------------------------------------


def test_an_imported_pack_is_found_by_its_name_and_equals_the_original(pack):
    before = snapshot(pack.folder)
    copy = importers.import_pack(pack.folder, "mine")
    assert cache.imported_packs() == {"mine": copy.folder}
    assert copy.folder == files.data_root() / "packs" / "mine"
    assert copy.info == pack.info
    assert snapshot(pack.folder) == before
    for part in ("train", "val", "test"):
        assert torch.equal(copy.image(part), pack.image(part))


def test_without_a_name_the_data_set_gives_it(pack):
    assert importers.import_pack(pack.folder).folder.name == "flowers"


def test_a_pack_without_val_can_be_imported_and_one_without_test_cannot(tmp_path, pack):
    for part, allowed in (("val", True), ("test", False)):
        folder = tmp_path / f"no-{part}"
        cache.write_pack(
            folder, dataset="x", encoder="e", classes=list("abcde"), scale=1.0,
            parts={name: pack.tensors(name) for name in pack.parts if name != part},
        )  # fmt: skip
        if allowed:
            importers.import_pack(folder, "x")
        else:
            with pytest.raises(errors.Missing, match=r"test\.safetensors is missing"):
                importers.import_pack(folder, "y")


def test_an_import_is_replaced_only_by_force_and_keeps_the_old_one_on_failure(pack, monkeypatch):
    importers.import_pack(pack.folder, "mine")
    with pytest.raises(errors.UsageError, match="'mine' is imported already; replace it with --force"):
        importers.import_pack(pack.folder, "mine")
    with pytest.raises(errors.UsageError, match="name 'Mine' is taken by 'mine'"):
        importers.import_pack(pack.folder, "Mine", force=True)
    before = snapshot(cache.packs_root())

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(errors.Missing, match="No space left"):
            importers.import_pack(pack.folder, "mine", force=True)
    assert snapshot(cache.packs_root()) == before
    importers.import_pack(pack.folder, "mine", force=True)
    assert [path.name for path in cache.packs_root().iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["a/b", "../x", "", "a b", "tip[alpha=1]", "x" * 200, "-x"])
def test_a_name_that_cannot_be_typed_is_refused(pack, name):
    with pytest.raises(errors.UsageError, match="use letters, digits"):
        importers.import_pack(pack.folder, name or " ")


def test_a_name_of_another_data_set_is_refused_even_by_force(pack):
    with pytest.raises(errors.UsageError, match="name 'my-flowers' is taken by 'my_flowers'"):
        importers.import_pack(pack.folder, "my-flowers", taken=["my_flowers"], force=True)


def test_an_import_cannot_be_imported_onto_itself(pack):
    mine = importers.import_pack(pack.folder, "mine")
    with pytest.raises(errors.UsageError, match="nothing to import"):
        importers.import_pack(mine.folder, "mine", force=True)
    assert cache.verify(cache.open_pack(mine.folder)) == []


def test_a_damaged_pack_is_refused_and_leaves_nothing(pack):
    path = pack.folder / "test.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    with pytest.raises(errors.Corrupt, match=r"test\.safetensors: its sha256") as error:
        importers.import_pack(pack.folder, "mine")
    told(error)
    assert cache.imported_packs() == {}


def test_a_mislabelled_pack_is_refused(tmp_path, pack):
    parts = {part: pack.tensors(part) for part in pack.parts}
    parts["test"]["label"] = parts["test"]["label"].flip(0)
    cache.write_pack(tmp_path / "bad", dataset="x", encoder="e", classes=list("abcde"), scale=1.0, parts=parts)
    with pytest.raises(errors.Corrupt, match=r"test\.safetensors: labels out of step") as error:
        importers.import_pack(tmp_path / "bad")
    told(error)


@pytest.fixture
def wordless(tmp_path, text):
    """A sound pack of six classes whose text rows are not in the order of its labels: nothing to compare with."""
    classes, order = 6, torch.arange(6).roll(1)
    centre = torch.eye(classes, D)
    label = torch.arange(classes).repeat(20)
    noise = torch.randn(len(label), D, generator=torch.Generator().manual_seed(4))
    parts = {part: {"image": centre[label] + 0.05 * noise, "label": label} for part in ("train", "test")}
    return cache.write_pack(
        tmp_path / "wordless",
        dataset="codes",
        encoder="tiny",
        classes=list("uvwxyz"),
        scale=100.0,
        parts=parts | {"text": {"weight": centre[order]}},
    )


def test_labels_that_text_speaks_against_are_taken_on_trust_alone(wordless):
    with pytest.raises(errors.Corrupt, match="out of step") as error:
        importers.import_pack(wordless.folder, "mine")
    assert told(error).endswith("(import with --trust-labels if they are right)")
    pack = importers.import_pack(wordless.folder, "mine", trust_labels=True)
    assert pack.info == wordless.info
    for name in ("pack.json", *pack.info.files):
        assert (pack.folder / name).read_bytes() == (wordless.folder / name).read_bytes()
    assert cache.verify(cache.open_pack(pack.folder)) == []
    assert cache.verify(wordless) != []


def test_trust_is_not_handed_on_by_a_pack(wordless, pack):
    for folder in (wordless.folder, pack.folder):
        (folder / "trusted").touch()
    assert cache.verify(wordless) == []
    with pytest.raises(errors.Corrupt, match="import with --trust-labels"):
        importers.import_pack(wordless.folder, "mine")
    assert not (importers.import_pack(pack.folder, "other").folder / "trusted").exists()


def test_damage_is_refused_from_whoever_is_trusted(wordless):
    (wordless.folder / "test.safetensors").write_bytes(b"")
    with pytest.raises(errors.Corrupt, match=r"test\.safetensors: has 0 bytes") as error:
        importers.import_pack(wordless.folder, "mine", trust_labels=True)
    assert "--trust-labels" not in told(error)
    assert cache.verify(cache.open_pack(wordless.folder)) != []


def test_a_pack_of_one_class_is_refused(tmp_path):
    part = {"image": torch.ones(3, D), "label": torch.zeros(3, dtype=torch.int64)}
    parts = {"train": part, "test": part, "text": {"weight": torch.ones(1, D)}}
    cache.write_pack(tmp_path / "one", dataset="x", encoder="e", classes=["a"], scale=1.0, parts=parts)
    with pytest.raises(
        errors.UsageError, match=r"one/pack\.json: names 1 class; to tell classes apart takes 2"
    ) as error:
        importers.import_pack(tmp_path / "one")
    told(error)


# -- Tip-Adapter -------------------------------------------------------------------------------------


@pytest.fixture
def tip(tmp_path, text):
    folder = tmp_path / "caches" / "flowers"
    folder.mkdir(parents=True)
    keys, label = rows(text, K, 1)
    torch.save(keys.T.half(), folder / f"keys_{K}shots.pt")
    torch.save(torch.nn.functional.one_hot(label, C).half(), folder / f"values_{K}shots.pt")
    for seed, part in enumerate(("val", "test"), 2):
        image, label = rows(text, 12, seed)
        torch.save(image.half(), folder / f"{part}_f.pt")
        torch.save(label, folder / f"{part}_l.pt")
    torch.save(text.T.half(), folder / "text_weights.pt")
    (folder / "names.txt").write_text("äpfel\nb\n\nc\nd\ne\n", encoding="utf-8")
    return folder


def take(folder, **changes):
    fields = {"encoder": "RN50", "classes": folder / "names.txt", "name": "tipped"}
    return importers.import_tip_adapter(folder, **(fields | changes))


def test_a_tip_adapter_cache_becomes_a_pack(tip, text):
    before = snapshot(tip)
    pack = take(tip)
    assert snapshot(tip) == before
    assert pack.info.fewshot == cache.Fewshot(K, 1)
    assert pack.info.classes == ["äpfel", "b", "c", "d", "e"] and pack.info.dim == D
    assert (pack.info.encoder, pack.info.scale, pack.info.dataset) == (
        "RN50",
        100.0,
        "flowers",
    )  # of the folder, whatever it is imported as
    keys, label = rows(text, K, 1)
    assert torch.equal(pack.features("train").image, keys.half().float())
    assert torch.equal(pack.features("train").label, label)
    assert pack.tensors("train")["image"].dtype == torch.float16
    image, label = rows(text, 12, 3)
    assert torch.equal(pack.image("test"), image.half().float())
    assert torch.equal(pack.label("test"), label)
    torch.testing.assert_close(pack.text().weight, text, atol=1e-3, rtol=0)
    assert cache.verify(pack) == []
    assert cache.imported_packs() == {"tipped": pack.folder}


def test_the_same_cache_gives_the_same_bytes_and_replaces_only_by_force(tip):
    first = snapshot_bytes(take(tip).folder)
    with pytest.raises(errors.UsageError, match="imported already"):
        take(tip)
    assert snapshot_bytes(take(tip, force=True).folder) == first


def test_a_tip_adapter_cache_of_wrong_labels_is_taken_on_trust_alone(tip, text):
    torch.save(text.roll(1, 0).T, tip / "text_weights.pt")
    with pytest.raises(errors.Corrupt, match="out of step") as error:
        take(tip)
    assert told(error).endswith("(import with --trust-labels if they are right)")
    pack = take(tip, trust_labels=True)
    assert pack.info.fingerprint["labels"] == "trusted"
    assert cache.verify(cache.open_pack(pack.folder)) == []


def test_a_tip_adapter_cache_must_hold_its_shots(tip, text):
    keys, label = rows(text, K - 1, 1)
    torch.save(keys.T, tip / f"keys_{K}shots.pt")
    torch.save(torch.nn.functional.one_hot(label, C), tip / f"values_{K}shots.pt")
    with pytest.raises(
        errors.Corrupt, match=r"keys_4shots\.pt: label has at most 3 rows of a class, but fewshot says 4"
    ):
        take(tip, trust_labels=True)


def snapshot_bytes(folder):
    return {path: data for path, (data, _) in snapshot(folder).items()}


def test_validation_features_may_be_absent_but_not_half_of_them(tip):
    (tip / "val_l.pt").unlink()
    with pytest.raises(errors.Missing, match=r"no val_l\.pt"):
        take(tip)
    (tip / "val_f.pt").unlink()
    assert take(tip).parts == ("train", "test", "text")


def test_several_shots_must_be_chosen_from(tip, text):
    for count in (1, 2):
        keys, label = rows(text, count, 8)
        torch.save(keys.T, tip / f"keys_{count}shots.pt")
        torch.save(torch.nn.functional.one_hot(label, C), tip / f"values_{count}shots.pt")
    with pytest.raises(errors.UsageError, match=r"keys of \[1, 2, 4\] shots; choose with --shots"):
        take(tip)
    with pytest.raises(errors.UsageError, match="no keys of 8 shots"):
        take(tip, shots=8)
    assert take(tip, shots=2).info.fewshot.shots == 2


def test_of_several_texts_the_plain_one_is_taken_or_one_must_be_chosen(tip, text):
    other = unit(text + 0.05)
    torch.save(other.T, tip / "text_weights_cupl.pt")
    torch.testing.assert_close(take(tip).text().weight, text, atol=1e-3, rtol=0)
    torch.testing.assert_close(take(tip, text="text_weights_cupl.pt", name="b").text().weight, other)
    torch.testing.assert_close(take(tip, text=tip / "text_weights_cupl.pt", name="c").text().weight, other)
    (tip / "text_weights.pt").rename(tip / "text_weights_template.pt")
    with pytest.raises(
        errors.UsageError, match=r"text_weights_cupl\.pt, text_weights_template\.pt; choose with --text"
    ):
        take(tip, name="d")


def test_class_names_come_as_lines_or_as_json(tip):
    (tip / "names.json").write_text(json.dumps(list("vwxyz")))
    assert take(tip, classes=tip / "names.json").info.classes == list("vwxyz")


@pytest.mark.parametrize(
    ("content", "kind", "part"),
    [
        (b"a\nb\n", errors.UsageError, "names.txt: has 2 class names, but values_4shots.pt: is (20, 5)"),
        (b"[1, 2, 3, 4, 5]", errors.UsageError, "names.txt: not a JSON list of class names, each a string"),
        (b"[1, 2", errors.UsageError, "names.txt: not a JSON list of class names"),
        (b"\xff\xfe\xff", errors.Missing, "cannot read class names"),
        (b"alone\n", errors.UsageError, "names.txt: names 1 class; to tell classes apart takes 2 or more"),
    ],
)
def test_wrong_class_names_are_told(tip, content, kind, part):
    (tip / "names.txt").write_bytes(content)
    with pytest.raises(kind) as error:
        take(tip)
    assert part in told(error)


class Bomb:
    def __reduce__(self):
        return print, ("this must not run",)


CORRUPT, USAGE = errors.Corrupt, errors.UsageError
NAN = torch.full((60, D), float("nan"))


@pytest.mark.parametrize(
    ("name", "content", "kind", "part"),
    [
        ("test_f.pt", torch.ones(60, 512), CORRUPT, "test_f.pt: is (60, 512) but keys_4shots.pt is"),
        ("test_f.pt", torch.ones(60), CORRUPT, "test_f.pt: is (60,), expected (M, D)"),
        ("test_f.pt", torch.ones(59, D), CORRUPT, "test_f.pt: image has 59 rows but label has 60"),
        ("test_f.pt", NAN, CORRUPT, "test_f.pt: image holds NaN or infinity in row 0"),
        ("test_l.pt", torch.arange(60), CORRUPT, "test_f.pt: label holds 59, but 5 classes"),
        ("test_l.pt", torch.full((60,), 0.5), CORRUPT, "test_l.pt: is (60,) torch.float32, expected whole"),
        ("test_l.pt", torch.arange(60).flip(0) % C, CORRUPT, "test_f.pt: labels out of step"),
        ("text_weights.pt", torch.ones(512, C), CORRUPT, "text_weights.pt: is (512, 5) but"),
        ("text_weights.pt", torch.ones(D, C + 1), CORRUPT, "text_weights.pt: is (16, 6) but there are 5"),
        ("values_4shots.pt", torch.ones(20, C), CORRUPT, "values_4shots.pt: row 0 is not one-hot"),
        ("values_4shots.pt", torch.ones(19, C), CORRUPT, "values_4shots.pt: is (19, 5) but"),
        ("keys_4shots.pt", [torch.ones(D, 20)], USAGE, "keys_4shots.pt: holds a list, expected one"),
        ("keys_4shots.pt", torch.eye(D).to_sparse(), USAGE, "expected one dense tensor"),
        ("keys_4shots.pt", Bomb(), USAGE, "keys_4shots.pt: holds pickled objects"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_in_one_line(tip, name, content, kind, part, capsys):
    torch.save(content, tip / name)
    with pytest.raises(kind) as error:
        take(tip)
    assert part in told(error)
    assert "must not run" not in capsys.readouterr().out
    assert cache.imported_packs() == {}


def test_a_plain_pickle_and_a_cut_file_are_refused_and_not_run(tip, capsys):
    whole = (tip / "test_f.pt").read_bytes()
    for content in (pickle.dumps(Bomb()), whole[: len(whole) // 2], b"", b"text"):
        (tip / "test_f.pt").write_bytes(content)
        with pytest.raises(errors.Corrupt, match=r"test_f\.pt: damaged, or not a file of torch\.save") as error:
            take(tip)
        told(error)
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["keys_4shots.pt", "values_4shots.pt", "test_f.pt", "test_l.pt", "text_weights.pt"])
def test_a_flipped_bit_among_the_numbers_of_a_file_is_noticed(tip, name):
    stored = bytes(torch.load(tip / name, weights_only=True).untyped_storage())
    data = bytearray((tip / name).read_bytes())
    start = bytes(data).index(stored)
    data[start + 21] ^= 2
    (tip / name).write_bytes(data)
    torch.load(tip / name, weights_only=True)  # torch itself does not notice
    with pytest.raises(errors.Corrupt, match="checksum of its member") as error:
        take(tip)
    assert told(error).startswith(name)


def test_a_file_saved_without_checksums_is_read(tip):
    tensor = torch.load(tip / "test_f.pt", weights_only=True)
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tensor, tip / "test_f.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(take(tip).tensors("test")["image"], tensor)


def test_a_file_of_the_old_format_is_read(tip):
    tensor = torch.load(tip / "test_f.pt", weights_only=True)
    torch.save(tensor, tip / "test_f.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(take(tip).tensors("test")["image"], tensor)


@pytest.mark.parametrize("name", ["keys_4shots.pt", "values_4shots.pt", "test_l.pt", "text_weights.pt", "names.txt"])
def test_an_absent_file_is_named(tip, name):
    (tip / name).unlink()
    with pytest.raises(errors.Missing) as error:
        take(tip)
    assert name.split("4")[0].split(".")[0] in told(error)


def test_an_absent_folder_is_named(tip):
    with pytest.raises(errors.Missing, match="is not a folder"):
        importers.import_tip_adapter(tip / "none", "RN50", tip / "names.txt", "x")
