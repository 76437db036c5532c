"""Feature packs come back as written, and nothing damaged is ever read as data."""

import json
import math
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness import cache, errors, files

C, D, ROWS = 4, 8, 40


def vectors(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def labelled(rows, text, noise, seed):
    label = torch.arange(rows) % C
    image = text[label] + noise * vectors(rows, D, seed=seed)
    return {"image": image, "label": label}


@pytest.fixture
def parts():
    text = torch.eye(C, D)
    return {
        "train": labelled(ROWS, text, 0.5, 1) | {"views": vectors(3, ROWS, D, seed=9)},
        "val": labelled(ROWS, text, 0.5, 2),
        "test": labelled(200, text, 0.5, 3),
        "text": {"prompts": torch.stack([text, text + 0.1], dim=1)},
    }


def write(folder, parts, **changes):
    fields = {"dataset": "toys", "encoder": "tiny:ours", "classes": list("abcd"), "scale": 100.0}
    return cache.write_pack(folder, **(fields | changes), parts=parts)


@pytest.fixture
def pack(tmp_path, parts):
    return write(tmp_path / "pack", parts, fingerprint={"weights": "w", "views": 3})


def resign(folder, *names):
    """Make the manifest agree with files that were changed, as a careless or hostile author would."""
    manifest = json.loads((folder / "pack.json").read_text())
    for name in names:
        path = folder / name
        manifest["files"][name] = {"sha256": files.sha256_of(path), "bytes": path.stat().st_size}
    (folder / "pack.json").write_text(json.dumps(manifest))


def alter(folder, part, **tensors):
    """Replace fields of a part (None removes one) and sign the result."""
    path = folder / f"{part}.safetensors"
    found = {name: value.clone() for name, value in load_file(path).items()} | tensors
    save_file({name: value for name, value in found.items() if value is not None}, path)
    resign(folder, path.name)


def edit(folder, **fields):
    manifest = json.loads((folder / "pack.json").read_text()) | fields
    (folder / "pack.json").write_text(json.dumps(manifest))


def line_of(error):
    text = str(error.value)
    assert "\n" not in text
    return text


# -- reading and writing -----------------------------------------------------------------------------


def test_a_pack_comes_back_as_it_was_written(pack, parts):
    again = cache.open_pack(pack.folder)
    assert again.parts == ("train", "val", "test", "text")
    for part in ("train", "val", "test"):
        features = again.features(part)
        assert torch.equal(features.image, parts[part]["image"])
        assert torch.equal(features.label, parts[part]["label"])
        assert torch.equal(again.image(part), parts[part]["image"])
        assert torch.equal(again.label(part), parts[part]["label"])
    assert torch.equal(again.features("train").views, parts["train"]["views"])
    assert again.features("val").views is None
    assert again.info.dim == D and again.info.fewshot is None
    assert again.info.fingerprint == {"weights": "w", "views": 3}


def test_the_text_is_the_normalised_mean_of_normalised_prompts(pack, parts):
    text = pack.text()
    one, two = parts["text"]["prompts"][0]
    mean = (one / one.norm() + two / two.norm()) / 2
    torch.testing.assert_close(text.weight[0], mean / mean.norm())
    assert text.classes == ("a", "b", "c", "d") and text.scale == 100.0


def test_a_weight_alone_stands_for_one_prompt_per_class(tmp_path):
    weight = 3 * torch.eye(C, D)
    text = write(tmp_path / "p", {"text": {"weight": weight}}).text()
    assert text.prompts.shape == (C, 1, D)
    assert torch.equal(text.weight, torch.eye(C, D))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_kept_on_disk_and_read_as_float32(tmp_path, parts, dtype):
    half = {"image": parts["val"]["image"].to(dtype), "label": parts["val"]["label"]}
    pack = write(tmp_path / "p", {"val": half})
    assert pack.tensors("val")["image"].dtype == dtype
    assert pack.features("val").image.dtype == pack.image("val").dtype == torch.float32
    assert torch.equal(pack.image("val"), half["image"].float())


def test_the_norm_of_features_is_not_touched(tmp_path, parts):
    raw = {"image": 7 * parts["val"]["image"], "label": parts["val"]["label"]}
    assert torch.equal(write(tmp_path / "p", {"val": raw}).image("val"), raw["image"])


def test_the_same_input_gives_the_same_bytes(tmp_path, parts):
    backwards = {part: dict(reversed(parts[part].items())) for part in reversed(parts)}
    one, two = write(tmp_path / "one", parts), write(tmp_path / "two", backwards)
    for name in [f"{part}.safetensors" for part in one.parts]:
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


def test_changing_what_was_read_does_not_change_the_pack(pack, parts):
    features, text = pack.features("train"), pack.text()
    features.image.zero_()
    features.views.zero_()
    text.weight.zero_()
    again = cache.open_pack(pack.folder)
    assert torch.equal(again.image("train"), parts["train"]["image"])
    assert files.sha256_of(pack.folder / "train.safetensors") == pack.info.files["train.safetensors"].sha256
    assert float(again.text().weight.norm()) > 0


def test_a_pack_is_what_the_design_says_to_the_field(pack):
    manifest = json.loads((pack.folder / "pack.json").read_text())
    assert set(manifest) == {
        "format", "dataset", "encoder", "classes", "dim", "scale", "fewshot", "fingerprint", "files",
    }  # fmt: skip
    assert manifest["format"] == "harness-features/1"
    assert manifest["files"]["val.safetensors"] == {
        "sha256": files.sha256_of(pack.folder / "val.safetensors"),
        "bytes": (pack.folder / "val.safetensors").stat().st_size,
    }
    assert sorted(path.name for path in pack.folder.iterdir()) == [
        "pack.json", "test.safetensors", "text.safetensors", "train.safetensors", "val.safetensors",
    ]  # fmt: skip


def test_a_pack_written_by_hand_without_our_metadata_is_read(pack, parts):
    for part in pack.parts:
        alter(pack.folder, part)
    edit(pack.folder, scale=50)
    assert cache.open_pack(pack.folder).text().scale == 50.0
    assert cache.verify(cache.open_pack(pack.folder)) == []


def test_a_part_that_is_not_there_is_missing_and_not_corrupt(tmp_path, parts):
    pack = write(tmp_path / "p", {"val": parts["val"]})
    with pytest.raises(errors.Missing, match="no test part; it has val"):
        pack.features("test")
    with pytest.raises(errors.Missing, match=r"train\.safetensors is missing"):
        cache.check_complete(pack)


def test_train_test_and_text_make_a_complete_pack(tmp_path, parts):
    del parts["val"]
    cache.check_complete(write(tmp_path / "p", parts))


def test_a_folder_that_is_no_pack_is_missing(tmp_path):
    with pytest.raises(errors.Missing, match="not a feature pack"):
        cache.open_pack(tmp_path)
    with pytest.raises(errors.Missing, match=r"pack\.json: cannot be read"):
        (tmp_path / "pack.json").mkdir()
        cache.open_pack(tmp_path)


def test_whoever_comes_second_gets_the_pack_that_is_there(tmp_path, parts):
    first = write(tmp_path / "p", {"val": parts["val"]})
    again = write(tmp_path / "p", {"val": parts["val"]})
    assert again.info == first.info
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_failed_write_leaves_nothing_behind(tmp_path, parts, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_synced", full)
    with pytest.raises(errors.Missing, match="No space left on device") as error:
        write(tmp_path / "p", parts)
    line_of(error)
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_no_reader_would_accept_are_not_written(tmp_path, parts):
    parts["val"]["image"][3, 1] = math.nan
    with pytest.raises(errors.Corrupt, match=r"val\.safetensors: image holds NaN or infinity in row 3"):
        write(tmp_path / "p", parts)
    assert not (tmp_path / "p").exists()
    with pytest.raises(errors.UsageError, match="valid"):
        write(tmp_path / "p", {"valid": parts["test"]})
    with pytest.raises(errors.UsageError, match="at least one part"):
        write(tmp_path / "p", {})


# -- damage ------------------------------------------------------------------------------------------


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path, parts):
    small = {"train": {name: value[:C] for name, value in parts["val"].items()}, "text": parts["text"]}
    pack = write(tmp_path / "p", small, fewshot={"shots": 1, "seed": 1})
    whole = {path.name: path.read_bytes() for path in pack.folder.iterdir()}
    picks = torch.Generator().manual_seed(0)
    for name, data in whole.items():
        path = pack.folder / name
        for trial in range(150):
            at = int(torch.randint(len(data), (), generator=picks))
            damaged = bytearray(data)
            damaged[at] ^= 1 << int(torch.randint(8, (), generator=picks))
            path.write_bytes(damaged if trial % 3 else data[:at])
            if name == "pack.json" and json_of(damaged if trial % 3 else data[:at]) == json_of(data):
                continue  # white space
            with pytest.raises(errors.HarnessError) as error:
                again = cache.open_pack(pack.folder)
                again.features("train")
                again.text()
            line_of(error)
        path.write_bytes(data)


def json_of(data):
    try:
        return json.loads(data)
    except ValueError:
        return None


def test_a_file_is_hashed_once_per_process_and_again_after_a_change(pack, monkeypatch):
    seen = []
    original = files.sha256_of
    monkeypatch.setattr(files, "sha256_of", lambda path: seen.append(path.name) or original(path))
    for _ in range(3):
        cache.open_pack(pack.folder).features("val")
    assert seen == ["val.safetensors"]
    path = pack.folder / "val.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(errors.Corrupt, match=r"val\.safetensors: its sha256"):
        cache.open_pack(pack.folder).features("val")


@pytest.mark.parametrize(
    ("part", "change", "told"),
    [
        ("val", {"image": vectors(ROWS, 512)}, "image is (40, 512) but pack.json says dim 8"),
        ("val", {"image": vectors(ROWS - 1, D)}, "image has 39 rows but label has 40"),
        ("val", {"image": None}, "image is missing"),
        ("val", {"label": None}, "label is missing"),
        ("val", {"image": torch.ones(ROWS, D, dtype=torch.int64)}, "image is int64 (40, 8)"),
        ("val", {"image": vectors(ROWS)}, "image is float32 (40,), expected floats (N, D)"),
        ("val", {"image": torch.zeros(ROWS, D)}, "image is all zero in row 0"),
        ("val", {"image": torch.full((ROWS, D), math.inf)}, "image holds NaN or infinity"),
        ("val", {"label": torch.full((ROWS,), C)}, "label holds 4, but 4 classes have labels 0..3"),
        ("val", {"label": torch.full((ROWS,), -1)}, "label holds -1"),
        ("val", {"label": torch.ones(ROWS)}, "label is float32 (40,), expected int64"),
        ("val", {"label": torch.tensor(1)}, "label is int64 (), expected int64"),
        ("val", {"views": vectors(3, ROWS, D)}, "unknown field 'views'"),
        ("train", {"views": vectors(3, ROWS - 1, D)}, "views is (3, 39, 8) but label has 40"),
        ("train", {"views": vectors(3, ROWS, D + 1)}, "views is (3, 40, 9) but pack.json"),
        ("train", {"views": torch.zeros(3, ROWS, D)}, "views is all zero"),
        ("text", {"prompts": vectors(C + 1, 2, D)}, "prompts has 5 rows but pack.json has 4"),
        ("text", {"prompts": vectors(C, D)}, "prompts is float32 (4, 8), expected"),
        ("text", {"weight": vectors(C, D + 1)}, "weight is (4, 9) but pack.json says dim 8"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_told_in_one_line_with_its_file(pack, part, change, told):
    alter(pack.folder, part, **change)
    again = cache.open_pack(pack.folder)
    with pytest.raises(errors.Corrupt, match=re.escape(f"{part}.safetensors: {told}")) as error:
        again.tensors(part)
    assert cache.verify(again) == [line_of(error)]


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        ({"format": "harness-features/2"}, errors.UsageError, "harness-features/2 is newer"),
        ({"format": "something"}, errors.Corrupt, "pack.json: format is 'something'"),
        ({"dim": 0}, errors.Corrupt, "pack.json: dim is 0"),
        ({"dim": "8"}, errors.Corrupt, "pack.json: Expected"),
        ({"scale": 0}, errors.Corrupt, "pack.json: scale is 0"),
        ({"scale": -1.5}, errors.Corrupt, "pack.json: scale is -1.5"),
        ({"classes": []}, errors.Corrupt, "pack.json: classes is empty"),
        ({"fewshot": {"shots": 0, "seed": 1}}, errors.Corrupt, "pack.json: fewshot"),
        ({"files": {"../x": {"sha256": "", "bytes": 0}}}, errors.Corrupt, "pack.json: files names ['../x']"),
        ({"files": {}}, errors.Corrupt, "pack.json: files does not list train.safetensors"),
        ({"classes": list("abcx")}, errors.Corrupt, "pack.json: altered after train.safetensors"),
        ({"scale": 10.0}, errors.Corrupt, "pack.json: altered after"),
    ],
)  # fmt: skip
def test_a_wrong_manifest_is_told_in_one_line(pack, change, kind, told):
    edit(pack.folder, **change)
    with pytest.raises(kind, match=re.escape(told)) as error:
        cache.open_pack(pack.folder).features("train")
    line_of(error)


def test_a_file_that_is_gone_or_is_no_safetensors_is_corrupt(pack):
    (pack.folder / "val.safetensors").write_bytes(b"not this")
    resign(pack.folder, "val.safetensors")
    again = cache.open_pack(pack.folder)
    with pytest.raises(errors.Corrupt, match=r"val\.safetensors: not a safetensors file"):
        again.features("val")
    (pack.folder / "val.safetensors").unlink()
    with pytest.raises(errors.Corrupt, match=r"val\.safetensors: pack\.json lists it, but"):
        again.label("val")


def test_more_rows_of_a_class_than_the_shots_told_are_corrupt(tmp_path, parts):
    with pytest.raises(errors.Corrupt, match=r"label has 10 rows of class 0, but fewshot says 9 shots"):
        write(tmp_path / "p", {"train": parts["train"]}, fewshot={"shots": 9, "seed": 1})
    pack = write(tmp_path / "p", {"train": parts["train"]}, fewshot=cache.Fewshot(10, 1))
    assert cache.open_pack(pack.folder).info.fewshot == cache.Fewshot(10, 1)


@pytest.mark.parametrize(
    ("rows", "shots", "told"),
    [
        ([2, 2, 2, 2], 3, "label has at most 2 rows of a class, but fewshot says 3 shots of every class"),
        ([2, 2, 0, 2], 2, "label has no row of class 2, but fewshot says 2 shots of every class"),
        ([2, 2, 2, 0], 2, "label has no row of class 3"),
        ([2, 2, 2, 2], 2, ""),
        ([2, 1, 2, 1], 2, ""),
    ],
)
def test_a_draw_of_shots_is_one_smaller_classes_apart(tmp_path, parts, rows, shots, told):
    label = torch.arange(C).repeat_interleave(torch.tensor(rows))
    train = {"image": vectors(len(label), D), "label": label}
    if not told:
        assert len(write(tmp_path / "p", {"train": train}, fewshot=cache.Fewshot(shots, 1)).label("train")) == sum(rows)
        return
    with pytest.raises(errors.Corrupt, match=rf"train\.safetensors: {told}") as error:
        write(tmp_path / "p", {"train": train}, fewshot=cache.Fewshot(shots, 1))
    line_of(error)
    write(tmp_path / "pool", {"train": train})  # a pool may be as it is


def test_a_weight_must_be_the_mean_of_its_prompts(tmp_path, parts):
    prompts = parts["text"]["prompts"]
    weight = cache.Text.from_prompts("abcd", prompts, 1.0).weight
    pack = write(tmp_path / "good", {"text": {"prompts": prompts.half(), "weight": 3 * weight.half()}})
    torch.testing.assert_close(pack.text().weight, weight, atol=1e-3, rtol=0)
    swapped = weight[[0, 2, 1, 3]]
    opposed = torch.stack([prompts[:, 0], -prompts[:, 0]], dim=1)
    for i, text in enumerate(({"prompts": prompts, "weight": swapped}, {"prompts": opposed, "weight": weight})):
        with pytest.raises(
            errors.Corrupt, match=rf"text\.safetensors: weight is not the mean of prompts in row {1 - i}"
        ):
            write(tmp_path / "bad", {"text": text})


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_labels_out_of_step_with_the_text_are_named(tmp_path, parts, part):
    assert cache.verify(write(tmp_path / "good", parts)) == []
    parts[part]["label"] = (parts[part]["label"] + 1) % C
    (problem,) = cache.verify(write(tmp_path / "bad", parts))
    assert problem.startswith(f"{part}.safetensors: labels out of step with text rows: zero-shot")


def test_a_few_rows_are_no_evidence_of_wrong_labels(tmp_path, parts):
    parts["val"] = {"image": parts["val"]["image"][:4], "label": (parts["val"]["label"][:4] + 1) % C}
    assert cache.verify(write(tmp_path / "p", parts)) == []


def wide_pack(folder, noise, order=slice(None), classes=12):
    """Every part in step with the others, and with the text unless `order` moves its rows."""
    text = vectors(classes, 32, seed=5)
    label = torch.arange(classes).repeat(20)
    parts = {
        part: {"image": text[label] + noise * vectors(len(label), 32, seed=seed), "label": label}
        for seed, part in enumerate(("train", "test"))
    }
    return write(folder, parts | {"text": {"weight": text[order]}}, classes=[f"c{i}" for i in range(classes)])


@pytest.mark.parametrize("noise", [0.5, 1.5, 3.0])
def test_text_rows_in_another_order_than_the_labels_are_noticed(tmp_path, noise):
    assert cache.verify(wide_pack(tmp_path / "good", noise)) == []
    problems = cache.verify(wide_pack(tmp_path / "bad", noise, torch.arange(12).roll(1)))
    assert [problem.partition(":")[0] for problem in problems] == ["train.safetensors", "test.safetensors"]
    assert all("if classes are renamed; are text and labels in one order?" in problem for problem in problems)


@pytest.mark.parametrize("seed", range(20))
def test_a_hopeless_encoder_is_not_taken_for_wrong_labels(tmp_path, seed):
    """Neither is one that calls everything by two names."""
    label = torch.arange(10).repeat_interleave(torch.tensor([200, *[12] * 9]))
    biased = torch.zeros(len(label), D) + vectors(2, D, seed=seed)[label % 2] + 0.3 * vectors(len(label), D, seed=seed)
    for name, image in (("random", vectors(len(label), D, seed=seed)), ("biased", biased)):
        parts = {"test": {"image": image, "label": label}, "text": {"weight": vectors(10, D, seed=99)}}
        assert cache.verify(write(tmp_path / name, parts, classes=list("abcdefghij"))) == []


def test_packs_without_text_or_without_images_have_no_step_to_keep(tmp_path, parts):
    assert cache.verify(write(tmp_path / "images", {"val": parts["val"]})) == []
    assert cache.verify(write(tmp_path / "text", {"text": parts["text"]})) == []


# -- cache entries, export, listing ------------------------------------------------------------------


def test_a_damaged_cache_entry_is_set_aside_so_that_it_can_be_built_again(tmp_path, pack, parts):
    assert cache.intact(tmp_path / "none") == (None, "")
    assert cache.intact(pack.folder) == (pack, "")
    (pack.folder / "test.safetensors").write_bytes(b"")
    found, note = cache.intact(pack.folder)
    assert found is None and not pack.folder.exists()
    assert "test.safetensors: has 0 bytes" in note and "pack.damaged-1" in note
    assert (tmp_path / "pack.damaged-1" / "val.safetensors").exists()
    write(pack.folder, parts)
    assert cache.intact(pack.folder)[0] is not None


def test_parts_that_lie_apart_are_exported_as_one_pack(tmp_path, parts):
    apart = [
        write(tmp_path / "held", {part: parts[part] for part in ("val", "test")}),
        write(
            tmp_path / "shots",
            {"train": parts["train"]},
            fewshot={"shots": 10, "seed": 2},
            fingerprint={"a": 1},
        ),
        write(tmp_path / "text", {"text": parts["text"]}),
    ]
    whole = cache.export_pack(apart, tmp_path / "whole")
    cache.check_complete(whole)
    assert cache.verify(whole) == []
    assert whole.info.fewshot == cache.Fewshot(10, 2)
    assert whole.info.fingerprint["parts"]["train"] == {"a": 1}
    assert torch.equal(whole.features("train").views, parts["train"]["views"])


def test_a_single_pack_is_exported_with_its_fingerprint(tmp_path, pack):
    copy = cache.export_pack(pack, tmp_path / "copy")
    assert copy.info == pack.info


def test_an_export_keeps_which_validation_rows_go_with_the_shots(tmp_path, parts):
    prints = {"text": {"a": 1}, "train": {"a": 1, "val_rows": [3, 0, 2, 1]}, "val": {"a": 1}}
    apart = [write(tmp_path / part, {part: parts[part]}, fingerprint=one) for part, one in prints.items()]
    whole = cache.export_pack(apart, tmp_path / "whole")
    again = cache.export_pack(whole, tmp_path / "again")
    for pack in (whole, again):
        assert pack.info.fingerprint == {"parts": prints, "val_rows": [3, 0, 2, 1]}
    assert cache.export_pack(apart[1], tmp_path / "one").info.fingerprint == prints["train"]
    assert "val_rows" not in cache.export_pack(apart[::2], tmp_path / "none").info.fingerprint


def test_packs_that_do_not_belong_together_are_not_exported(tmp_path, parts):
    val, test = {"val": parts["val"]}, {"test": parts["test"]}
    one = write(tmp_path / "one", val)
    with pytest.raises(errors.UsageError, match="two and one differ in encoder"):
        cache.export_pack([one, write(tmp_path / "two", test, encoder="other")], tmp_path / "out")
    with pytest.raises(errors.UsageError, match="both hold val"):
        cache.export_pack([one, one], tmp_path / "out")
    with pytest.raises(errors.UsageError, match="no pack was given"):
        cache.export_pack([], tmp_path / "out")
    with pytest.raises(errors.UsageError, match="exists; give a new folder"):
        cache.export_pack(one, tmp_path / "one")


def test_many_writers_of_one_pack_leave_one_whole_pack(tmp_path, parts):
    with ThreadPoolExecutor(8) as pool:
        packs = list(pool.map(lambda _: write(tmp_path / "p", parts), range(16)))
    assert len({pack.info.head() for pack in packs}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert cache.verify(packs[0]) == []


def test_listing_shows_damaged_entries_and_hides_unfinished_ones(tmp_path, monkeypatch, parts):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    assert cache.imported_packs() == {} and cache.cached_packs() == []
    good = write(cache.packs_root() / "good", parts)
    shutil.copytree(good.folder, cache.packs_root() / "bad")
    (cache.packs_root() / "bad" / "pack.json").write_text("{")
    for name in (".half.tmp", "old.damaged-1"):
        (cache.packs_root() / name).mkdir()
    assert list(cache.imported_packs()) == ["bad", "good"]
    entry = write(cache.features_root() / "entry", {"val": parts["val"]})
    assert cache.cached_packs() == [entry.folder]


def test_remarks_in_a_manifest_are_left_alone_and_slips_are_named(tmp_path):
    folder = tmp_path / "pack"
    cache.write_pack(
        folder,
        dataset="toy",
        encoder="made-up",
        classes=["a", "b"],
        scale=100.0,
        parts={"text": {"weight": torch.eye(2, 4)}},
    )
    manifest = json.loads((folder / "pack.json").read_text())
    (folder / "pack.json").write_text(json.dumps({**manifest, "made_by": "somebody"}))
    assert cache.open_pack(folder).info.dataset == "toy"
    (folder / "pack.json").write_text(json.dumps({**manifest, "fewshots": {"shots": 1, "seed": 1}}))
    with pytest.raises(errors.Corrupt, match="did you mean fewshot"):
        cache.open_pack(folder)
