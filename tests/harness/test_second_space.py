"""A second feature space travels from adapters and packs to the methods that ask for it, and to no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import harness
from harness import cache, encoder, imo, overlap
from harness.errors import Corrupt, Missing
from harness.results import Store
from harness.types import Result

Command = Callable[..., tuple[int, str, str]]
MakePack = Callable[..., Path]

PROBE = """
from dataclasses import dataclass
from harness import Method

@dataclass
class Probe(Method):
    second_space = "SPACE"
    raw = RAW
    def fit(self, episode):
        self.text = episode.text
        self.width = episode.support.image.shape[1]
        self.halves = [half.norm(dim=1) for half in episode.support.image.chunk(2, 1)]
        return self

    def logits(self, image):
        return image[:, : self.text.weight.shape[1]] @ self.text.weight.T

    def facts(self):
        first, second = self.halves
        return {"width": self.width, "shortest": float(min(first.min(), second.min())),
                "longest": float(max(first.max(), second.max()))}
"""


def probe(space: str = "imo", raw: bool = False) -> str:
    Path("probe.py").write_text(PROBE.replace("SPACE", space).replace("RAW", str(raw)))
    return "./probe.py"


@pytest.fixture
def pictures(home: Path) -> str:
    """Three colours as an own data set, small enough to be encoded in a moment."""
    import numpy as np
    from PIL import Image

    from harness import folders

    rng = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (home / "pictures" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            pixels[..., channel] += 60
            Image.fromarray(pixels).save(home / "pictures" / name / f"{i:02}.png")
    folders.add(home / "pictures", "colours")
    return "colours"


def keep_adapters(seed: int = 0, up: float = 0.3, name: str = "generic") -> None:
    """Put adapters of the demo encoder where runs find them."""
    model = encoder.load("demo")
    settings = imo.Settings(seed=seed, scale=0.5)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        key: up * torch.randn(value.shape, generator=generator) if ".up." in key else value
        for key, value in imo.start(model, settings).weights.items()
    }
    trained_on = imo.TrainingSet(name=name, digest="a" * 64, images=1, classes=["Red", "sand"])
    imo.save(imo.place("demo"), imo.Adapters(weights, 0.5), imo.card_of(model, settings, trained_on))


def run(*methods: str, datasets: str = "colours", **spec: Any) -> list[Result]:
    spec = {"shots": [2], "seeds": [1], "encoder": "demo", "selection": "none", **spec}
    report = harness.run(methods=list(methods), datasets=[datasets], **spec)
    assert not report.failed, report.failed[0].error
    return report.computed


def with_second(folder: Path, seed: int = 7, trained_on: str = "flowers 123") -> Path:
    """A pack like another, with a second space of made-up features in every part."""
    pack = cache.open_pack(folder)
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, dict[str, Tensor]] = {part: pack.tensors(part) for part in pack.parts}
    for part in parts.keys() - {"text"}:
        image = parts[part]["image"]
        parts[part]["imo"] = 3 * image + 0.5 * torch.randn(image.shape, generator=generator)
    info = pack.info
    return cache.write_pack(
        folder.with_name("doubled"), dataset="doubled", encoder=info.encoder, classes=info.classes, scale=info.scale,
        fingerprint={"imo": {"adapter": "abc", "adapter_trained_on": trained_on}}, parts=parts,
    ).folder  # fmt: skip


# -- packs -------------------------------------------------------------------------------------------


def test_scores_from_a_pack_are_those_worked_out_by_hand(make_pack: MakePack) -> None:
    pack = cache.open_pack(with_second(make_pack()))
    result = run("tip_imo[alpha=2.0,beta=3.0]", datasets="doubled", encoder=None)[0]
    rows, label = drawn(pack)
    original, adapted = (
        torch.nn.functional.normalize(pack.tensors("test")[name].double(), dim=1) for name in ("image", "imo")
    )
    keys = torch.nn.functional.normalize(pack.tensors("train")["imo"].double()[rows], dim=1)
    votes = (-3.0 * (1 - adapted @ keys.T)).exp() @ torch.eye(5, dtype=torch.float64)[label]
    logits = 100 * original @ pack.text().weight.double().T + 2.0 * votes
    assert result.test is not None
    assert result.test.correct == int((logits.argmax(1) == pack.label("test")).sum())
    assert result.digests["adapter"] == "abc"
    assert result.digests["adapter_trained_on"] == "flowers 123"


def drawn(pack: cache.Pack) -> tuple[list[int], Tensor]:
    from harness import splits

    rows, _ = splits.draw(pack.label("train").tolist(), pack.label("val").tolist(), 2, 1)
    return rows, pack.label("train")[rows]


def test_the_first_space_is_read_as_if_there_were_no_second(make_pack: MakePack) -> None:
    plain = make_pack()
    with_second(plain)
    scores = [run("tip", "ncm", "zero_shot", datasets=name, encoder=None) for name in ("toy", "doubled")]
    assert [r.test for r in scores[0]] == [r.test for r in scores[1]]
    assert all("adapter" not in r.digests for r in scores[1])


def test_a_pack_without_it_is_refused_by_name_and_passed_over_by_all(
    make_pack: MakePack, harness_command: Command
) -> None:
    make_pack()
    words = ("run", "--datasets", "toy", "--shots", 2, "--seeds", 1, "--selection", "none")
    code, _, err = harness_command(*words, "--methods", "tip_imo")
    assert code == 8
    assert "toy is a pack without the second feature space 'imo'" in err and "--second-space" in err
    code, out, err = harness_command(*words, "--methods", "all", "--dry-run")
    assert code == 0
    assert "tip_imo" not in out and "tip " in out
    assert err.count("second feature space") == 1 and "tip_imo" in err


def test_an_unknown_second_space_is_a_usage_error(make_pack: MakePack, harness_command: Command) -> None:
    make_pack()
    words = ("--datasets", "toy", "--shots", 2, "--seeds", 1, "--selection", "none")
    code, _, err = harness_command("run", *words, "--methods", probe("dino"))
    assert code == 2
    assert "No second feature space named 'dino'" in err and "imo" in err


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("imo", torch.ones(3, 4), "imo is .3, 4. but image is"),
        ("imo", torch.ones(2, 5), "imo is .2, 5. but pack.json says dim 4"),
        ("imo_views", torch.ones(1, 2, 4), "of image and imo it has one only"),
        ("imo", torch.full((2, 4), torch.nan), "imo holds NaN"),
    ],
)
def test_a_second_space_of_other_rows_is_corrupt(field: str, value: Tensor, fault: str) -> None:
    info = cache.PackInfo(dataset="a", encoder="b", classes=["c"], dim=4, scale=1.0)
    part = {"image": torch.ones(2, 4), "label": torch.zeros(2, dtype=torch.int64), field: value}
    with pytest.raises(Corrupt, match=fault):
        cache.check_part("train.safetensors", "train", part, info)


def test_views_need_their_twins() -> None:
    info = cache.PackInfo(dataset="a", encoder="b", classes=["c"], dim=4, scale=1.0)
    part = {"image": torch.ones(2, 4), "label": torch.zeros(2, dtype=torch.int64), "views": torch.ones(3, 2, 4)}
    cache.check_part("train.safetensors", "train", part, info)
    with pytest.raises(Corrupt, match="of views and imo_views it has one only"):
        cache.check_part("train.safetensors", "train", {**part, "imo": torch.ones(2, 4)}, info)
    both = {"imo": torch.ones(2, 4), "imo_views": torch.ones(3, 2, 4)}
    cache.check_part("train.safetensors", "train", {**part, **both}, info)


# -- images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [False, True])
def test_rows_are_twice_as_wide_and_each_half_of_unit_norm_unless_raw(pictures: str, raw: bool) -> None:
    keep_adapters()
    facts = run(probe(raw=raw))[0].facts
    assert facts["width"] == 2 * 128
    if raw:
        assert facts["longest"] > 1.5
    else:
        assert (facts["shortest"], facts["longest"]) == (pytest.approx(1, abs=1e-5), pytest.approx(1, abs=1e-5))


def test_with_untrained_adapters_tip_imo_is_tip(pictures: str) -> None:
    keep_adapters(up=0.0)
    tip, adapted = run("tip[alpha=5.0,beta=4.0]", "tip_imo[alpha=5.0,beta=4.0]")
    assert tip.test == adapted.test


def test_only_methods_of_the_second_space_depend_on_the_adapters(pictures: str) -> None:
    keep_adapters(seed=0)
    before = {r.identity.method: r for r in run("tip", "tip_imo")}
    keep_adapters(seed=1)
    again = {r.identity.method: r for r in run("tip", "tip_imo")}
    assert set(again) == {"tip_imo"}  # tip is done: its key is what it was
    assert again["tip_imo"].key != before["tip_imo"].key
    assert again["tip_imo"].digests["features"] != before["tip_imo"].digests["features"]
    forced = run("tip", force=True)[0]
    assert forced.key == before["tip"].key and forced.digests == before["tip"].digests


def test_a_run_without_second_space_encodes_nothing_twice(pictures: str) -> None:
    keep_adapters()
    run("tip")
    assert [path.name for path in cache.cached_packs() if "-imo-" in path.name] == []
    run("tip_imo")
    adapted = [cache.open_pack(path) for path in cache.cached_packs() if "imo" in path.name]
    assert len(adapted) == 2  # held-out images, and the shots
    assert all(pack.info.fingerprint["imo"]["adapter_trained_on"].startswith("generic ") for pack in adapted)


def test_adapted_features_are_those_of_the_adapted_encoder(pictures: str) -> None:
    from harness import extract, folders

    keep_adapters()
    run("tip_imo")
    _, split, root = folders.load_own(pictures)
    model = encoder.load("demo")
    found = imo.look_up("demo", model.fingerprint["weights"])
    with imo.attached(model, imo.load(found, model)):
        wanted, _ = extract.image_features(model, [root / path for path, _ in split.test], [""] * len(split.test))
    packs = [cache.open_pack(path) for path in cache.cached_packs()]
    held = {"imo" in pack.info.fingerprint: pack.image("test") for pack in packs if "test" in pack.parts}
    assert torch.allclose(held[True], wanted, atol=1e-5)
    assert not torch.allclose(held[False], wanted, atol=1e-2)


def test_the_record_says_what_the_adapters_saw_of_a_data_set(pictures: str) -> None:
    keep_adapters()
    assert "the image adapters were trained on classes of the same names: 1 of 3" in run("tip_imo")[0].notes
    keep_adapters(name=pictures)
    assert "the image adapters were trained on this data set" in run("tip_imo")[0].notes


def test_a_pack_says_it_too(make_pack: MakePack) -> None:
    with_second(make_pack(), trained_on="doubled 123")
    assert (
        "the image adapters were trained on this data set" in run("tip_imo", datasets="doubled", encoder=None)[0].notes
    )


def test_flags_of_train_imo_can_come_from_the_environment(
    home: Path, harness_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_ENCODER_TRAIN_IMO_EPOCHS", "0")
    code, _, err = harness_command("encoder", "train-imo", "--data", "demo_shapes", "--encoder", "demo")
    assert code == 2 and "--epochs 0" in err


def test_without_adapters_the_command_to_train_them_is_named(
    pictures: str, harness_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(name: str, weights: str) -> imo.Found:
        raise Missing(f"No image adapters for encoder {name}; train them once: harness encoder train-imo")

    monkeypatch.setattr(imo, "look_up", nowhere)
    words = ("run", "--datasets", pictures, "--encoder", "demo", "--shots", 2, "--seeds", "1,2", "--dry-run")
    code, _, err = harness_command(*words, "--methods", "tip,tip_imo")
    assert code == 8
    assert "harness encoder train-imo" in err
    code, out, err = harness_command(*words, "--methods", "all")
    assert code == 0 and "tip_imo" not in out
    assert err.count("train-imo") == 1


def test_an_exported_pack_carries_the_second_space_and_scores_the_same(
    pictures: str, harness_command: Command, home: Path
) -> None:
    keep_adapters()
    words = ("--shots", 2, "--seed", 1, "--encoder", "demo")
    assert harness_command("features", "export", pictures, home / "plain", *words)[0] == 0
    assert harness_command("features", "export", pictures, home / "both", *words, "--second-space")[0] == 0
    plain, both = (cache.open_pack(home / name).tensors("train") for name in ("plain", "both"))
    assert both.keys() - plain.keys() == {"imo", "imo_views"}
    assert all(torch.equal(both[name], tensor) for name, tensor in plain.items())
    assert harness_command("features", "verify", home / "both")[0] == 0
    assert harness_command("features", "import", home / "both", "--name", "brought")[0] == 0
    here, brought = (run("tip_imo", datasets=name, selection="val-min4", encoder=None if name == "brought" else "demo")
                     for name in (pictures, "brought"))  # fmt: skip
    assert here[0].test == brought[0].test and here[0].hyperparameters == brought[0].hyperparameters
    assert here[0].digests["adapter"] == brought[0].digests["adapter"]


def test_results_of_one_adapter_stand_in_a_table_beside_plain_methods(pictures: str, harness_command: Command) -> None:
    keep_adapters(seed=0)
    run("tip", "tip_imo")
    code, out, _ = harness_command("table", "--json")
    assert code == 0
    assert {row["method"] for row in json.loads(out)["rows"]} == {"tip", "tip_imo"}
    keep_adapters(seed=1)
    run("tip_imo")
    code, out, _ = harness_command("table", "--json")
    table = json.loads(out)
    assert {row["method"] for row in table["rows"]} == {"tip", "tip_imo"}
    assert any("1 older record" in note for note in table["notes"])  # that of the earlier adapters
    assert len(Store(Path("results")).load().results) == 3


# -- harness analyse overlap -------------------------------------------------------------------------


def test_analyse_overlap_measures_both_spaces_on_validation_images(pictures: str, harness_command: Command) -> None:
    keep_adapters()
    words = ("analyse", "overlap", "--datasets", pictures, "--encoder", "demo")
    code, out, _ = harness_command(*words, "--json")
    assert code == 0
    original, adapted = json.loads(out)
    assert (original["features"], adapted["features"], original["part"]) == ("original", "adapted", "val")
    packs = [cache.open_pack(path) for path in cache.cached_packs()]
    assert {part for pack in packs for part in pack.parts} == {"val", "test", "text"}  # no shots are drawn for it
    for row, held in ((original, False), (adapted, True)):
        (pack,) = [pack for pack in packs if "val" in pack.parts and ("imo" in pack.info.fingerprint) is held]
        figures = overlap.measure(pack.image("val"), pack.label("val")).figures.as_dict()
        assert {name: row[name] for name in figures} == pytest.approx(figures, rel=1e-5, abs=1e-5)


def test_analyse_overlap_of_untrained_adapters_changes_nothing(pictures: str, harness_command: Command) -> None:
    keep_adapters(up=0.0)
    words = ("analyse", "overlap", "--datasets", pictures, "--encoder", "demo", "--part", "support", "--shots", 4)
    code, out, _ = harness_command(*words, "--json")
    assert code == 0
    original, adapted = json.loads(out)
    assert original["paired"] == 3 * 6 and original["unpaired"] == 12 * 11 // 2 - 18
    assert {**original, "features": ""} == {**adapted, "features": ""}


@pytest.mark.parametrize("form", ["term", "md", "csv"])
def test_accuracy_stands_beside_overlap_in_every_form(pictures: str, harness_command: Command, form: str) -> None:
    keep_adapters()
    words = ("analyse", "overlap", "--datasets", pictures, "--encoder", "demo", "--format", form)
    code, out, _ = harness_command(*words)
    assert code == 0
    head = out.splitlines()[0]
    assert "overlap" in head and "nearest" in head and "variance" in head
    assert sum(line.count("original") + line.count("adapted") for line in out.splitlines()) == 2


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_analyse_overlap_draws_when_matplotlib_is_here(
    pictures: str, harness_command: Command, home: Path, suffix: str
) -> None:
    pytest.importorskip("matplotlib")
    keep_adapters()
    path = home / "new" / f"overlap.{suffix}"
    words = ("analyse", "overlap", "--datasets", pictures, "--encoder", "demo", "--output", path)
    assert harness_command(*words)[0] == 0
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


def test_without_matplotlib_there_is_the_table_and_a_line(
    pictures: str, harness_command: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else real(name))
    keep_adapters()
    path = home / "overlap.png"
    words = ("analyse", "overlap", "--datasets", pictures, "--encoder", "demo", "--output", path)
    code, out, err = harness_command(*words)
    assert code == 0 and "adapted" in out
    assert "pip install 'clip-adapter-harness[plot]'" in err and not path.exists()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("--part", "train"), 2, "No part named 'train'"),
        (("--format", "xml"), 2, "No format named 'xml'"),
        (("--output", "a.bmp"), 2, "No kind of picture named 'bmp'"),
        (("--datasets", "nowhere"), 2, "nowhere"),
    ],
)
def test_analyse_overlap_tells_mistakes_in_one_line(
    harness_command: Command, words: tuple[str, ...], code: int, line: str
) -> None:
    given, _, err = harness_command("analyse", "overlap", "--encoder", "demo", *words)
    assert given == code
    assert line in err


def test_a_pack_without_validation_images_is_measured_on_its_shots(
    make_pack: MakePack, harness_command: Command
) -> None:
    with_second(make_pack(val=False))
    words = ("analyse", "overlap", "--datasets", "doubled")
    code, _, err = harness_command(*words)
    assert code == 5
    assert "doubled: left out, it has no val images." in err and "support" in err
    code, out, _ = harness_command(*words, "--part", "support", "--shots", 3, "--json")
    assert code == 0
    assert [row["paired"] for row in json.loads(out)] == [5 * 3, 5 * 3]
