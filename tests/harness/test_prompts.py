"""Class names go into sentences by their label, and a file of sentences is verified before it is believed."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness import errors, files, prompts
from harness.types import Dataset, Remote, Text

DATA = Path(__file__).parents[2] / "../shared/data/prompts"

TOY = Dataset(name="toy", title="Toy", templates=("a photo of a {}, a type of toy.",))


def toy(sets, **options):
    return replace(TOY, prompt_sets=sets, **options)


CLASSES = ("sea_horse", "polka-dotted", "F-16A/B")


def reference(name):
    if not (DATA / name).exists():
        pytest.skip("the reference prompts are not here")
    return json.loads((DATA / name).read_text())


# -- templates ---------------------------------------------------------------------------------------


def test_the_default_set_is_the_data_set_s_own_with_underscores_as_spaces():
    found = prompts.prompts_for(TOY, CLASSES)
    assert found.name == "single"
    assert found.sentences == (
        ("a photo of a sea horse, a type of toy.",),
        ("a photo of a polka-dotted, a type of toy.",),
        ("a photo of a F-16A/B, a type of toy.",),
    )
    assert found.counts == [1, 1, 1]
    assert found.flat == [own[0] for own in found.sentences]


def test_the_shared_sets_are_those_of_the_field_in_order():
    templates = reference("templates.json")
    for name, key in (("imagenet7", "imagenet_select7"), ("openai80", "openai_imagenet80")):
        found = prompts.prompts_for(TOY, ["x_y"], name)
        assert found.sentences == (tuple(template.replace("{}", "x y") for template in templates[key]),)


def test_eighty_templates_are_read_without_importing_open_clip_or_torch():
    import subprocess
    import sys

    code = "import sys; from harness import prompts; print(len(prompts.eighty()), {'torch', 'open_clip'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert out.stdout == "80 set()\n", out.stderr


def test_other_templates_in_open_clip_are_noticed(monkeypatch):
    prompts.eighty.cache_clear()
    monkeypatch.setattr(prompts, "EIGHTY_SHA256", "0" * 64)
    with pytest.raises(errors.Corrupt, match="other templates than the field uses"):
        prompts.eighty()
    monkeypatch.setattr(prompts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.Missing, match="open_clip is not installed"):
        prompts.eighty()


def test_a_data_set_may_declare_sets_and_name_another_one():
    own = toy({"openai": ("a {}.", "the {}."), "field": "openai80", "broken": "nowhere"})
    assert prompts.known_sets(own) == ["single", "imagenet7", "openai80", "openai", "field", "broken"]
    assert prompts.prompts_for(own, ["ox"], "openai").sentences == (("a ox.", "the ox."),)
    field = prompts.prompts_for(own, ["ox"], "field")
    assert field.digest == prompts.prompts_for(TOY, ["ox"], "openai80").digest
    with pytest.raises(errors.UsageError, match="No prompt set named 'nowhere'"):
        prompts.prompts_for(own, ["ox"], "broken")


def test_an_unknown_set_is_told_with_what_there_is():
    with pytest.raises(errors.UsageError) as error:
        prompts.prompts_for(toy({"cupl": Remote(file="x.json")}), ["ox"], "openai8")
    assert str(error.value) == (
        "toy: No prompt set named 'openai8'. Did you mean openai80? Known: cupl, imagenet7, openai80, single."
    )


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{0}", "{name} {}", "{}}"])
def test_a_template_has_one_gap_and_no_other_braces(template):
    with pytest.raises(errors.UsageError, match="needs one"):
        prompts.fill(template, "ox")


def test_a_class_name_with_braces_is_kept():
    assert prompts.fill("a {}.", "{x}_{}") == "a {x} {}."


def test_the_digest_follows_every_sentence_and_their_order():
    digests = {
        prompts.Prompts("a", sentences).digest
        for sentences in ((("x",), ("y",)), (("y",), ("x",)), (("x", "y"),), (("x",), ("z",)))
    }
    assert len(digests) == 4
    assert prompts.Prompts("a", (("x",),)).digest == files.digest_of([["x"]])


# -- sentences ---------------------------------------------------------------------------------------


def origin(content):
    """A remote file, and a stand-in for the downloader that counts its calls."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    calls = []

    def fetch(remote, folder):
        calls.append(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / remote.file).write_bytes(data)
        return folder / remote.file

    return Remote(file="toy.json", sha256=hashlib.sha256(data).hexdigest()), fetch, calls


def written(content, classes, home, keys=()):
    remote, fetch, _ = origin(content)
    return prompts.prompts_for(toy({"cupl": remote}, sentence_keys=dict(keys)), classes, "cupl", fetch=fetch)


def test_sentences_are_found_by_class_name_whatever_the_order_of_the_file(home):
    content = {"Ox": ["an ox", "a  big ox\n"], "sea horse": ["a fish"], "unused": ["x"], "f-16a/b": ["", "a plane"]}
    found = written(content, ("sea_horse", "F-16A/B", "ox"), home)
    assert found.sentences == (("a fish",), ("", "a plane"), ("an ox", "a  big ox\n"))
    assert found.counts == [1, 2, 2]


def test_two_classes_of_one_name_may_have_sentences_of_their_own(home):
    content = {"missile": ["a missile"], "projectile": ["a projectile"]}
    keys = {1: "projectile"}
    assert written(content, ("missile", "missile"), home, keys=keys).sentences == (("a missile",), ("a projectile",))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"ox": ["an ox"]}, "has no sentence for 1 of 2 classes, the first 'sea horse'"),
        ({"ox": ["an ox"], "sea horse": []}, "has no sentence for 1 of 2 classes"),
        ({"ox": "an ox"}, "not an object of lists of sentences"),
        ([], "not an object of lists"),
        (b"{", "not an object of lists"),
        (b'{"\xff": []}', "not an object of lists"),
    ],
)
def test_a_file_of_sentences_that_does_not_fit_is_told_in_one_line(content, told, home):
    with pytest.raises(errors.Corrupt) as error:
        written(content, ("ox", "sea_horse"), home)
    assert told in str(error.value) and "toy.json" in str(error.value) and "\n" not in str(error.value)


def test_sentences_of_another_hash_are_not_believed(home):
    remote, fetch, calls = origin({"ox": ["an ox"]})
    other = Remote(file=remote.file, sha256="0" * 64)
    with pytest.raises(errors.Corrupt, match=f"its sha256 is not {'0' * 64}"):
        prompts.prompts_for(toy({"cupl": other}), ["ox"], "cupl", fetch=fetch)
    assert calls == [files.data_root() / "prompts"]


def test_the_downloader_of_the_project_is_the_default(home, monkeypatch):
    download = pytest.importorskip("harness.download")
    remote, fetch, calls = origin({"ox": ["an ox"]})
    monkeypatch.setattr(download, "fetch", fetch)
    found = prompts.prompts_for(toy({"cupl": remote}), ["ox"], "cupl")
    assert found.sentences == (("an ox",),) and len(calls) == 1


def test_a_file_already_there_needs_no_network(home):
    pytest.importorskip("harness.download")
    remote, fetch, _ = origin({"ox": ["an ox"]})
    fetch(remote, files.data_root() / "prompts")
    found = prompts.prompts_for(toy({"cupl": remote}), ["ox"], "cupl")
    assert found.sentences == (("an ox",),)


# -- packs -------------------------------------------------------------------------------------------


def slow_weight(raw, counts):
    """Normalised mean of normalised sentences, class by class: (C, D)."""
    rows, at = [], 0
    for count in counts:
        units = [raw[at + i] / raw[at + i].norm() for i in range(count)]
        mean = sum(units) / count
        rows.append(mean / mean.norm())
        at += count
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("counts", "width"), [([3, 3, 3], 3), ([1, 2, 4], 4), ([4, 1, 1], 4), ([2, 3], 1), ([5, 2, 1], 1), ([1, 1], 1)]
)
def test_the_weight_of_ragged_sentences_is_their_mean(counts, width):
    raw = torch.randn(sum(counts), 6, generator=torch.Generator().manual_seed(1)) * 3 + 1
    laid_out = prompts.evened(raw, counts)
    assert laid_out.shape == (len(counts), width, 6)
    text = Text.from_prompts([str(i) for i in counts], laid_out, 100.0)
    torch.testing.assert_close(text.weight, slow_weight(raw, counts))
    if width == max(counts):
        means = torch.stack([own.mean(0) for own in raw.split(counts)])
        torch.testing.assert_close(text.raw_mean, means)


def test_equal_counts_keep_their_order():
    raw = torch.arange(12.0).reshape(6, 2)
    assert torch.equal(prompts.evened(raw, [2, 2, 2]), raw.reshape(3, 2, 2))
    assert torch.equal(prompts.evened(raw[:3], [2, 1])[1], raw[[2, 2]])
