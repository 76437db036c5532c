"""Runs do what is missing, once; score what is claimed; and lose nothing when cut short."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import harness
from harness import cache, splits
from harness.errors import Missing, NothingSelected, UsageError
from harness.results import Store
from harness.runner import count, predict
from harness.types import Method, Result

MakePack = Callable[..., Path]
ROOT = Path(harness.__file__).parents[1]

FAILING = """
from dataclasses import dataclass
from harness import Method

@dataclass
class Failing(Method):
    def fit(self, episode):
        if episode.seed == 2:
            raise RuntimeError("seed 2 is\\nunlucky")
        self.weight = episode.text.weight
        return self

    def logits(self, image):
        return LOGITS
"""


def failing(folder: Path, logits: str = "image @ self.weight.T") -> str:
    (folder / "failing.py").write_text(FAILING.replace("LOGITS", logits))
    return "./failing.py"


def accuracy(results: list[Result]) -> list[float]:
    return [result.test.accuracy for result in results if result.test]


def test_zero_shot_is_exact_to_the_count(make_pack: MakePack) -> None:
    pack = cache.open_pack(make_pack())
    right = (pack.image("test") @ pack.text().weight.T).argmax(1) == pack.label("test")
    result = harness.run(methods=["zero_shot"], datasets=["toy"], shots=[2], seeds=[1]).computed[0]
    assert result.test is not None
    assert (result.test.correct, result.test.total) == (int(right.sum()), 50)
    assert result.test.per_class_accuracy is not None
    assert sum(result.test.per_class_accuracy) / 5 == pytest.approx(result.test.accuracy)  # type: ignore[arg-type]


def test_a_method_is_fitted_on_exactly_the_drawn_rows(home: Path, make_pack: MakePack) -> None:
    pack = cache.open_pack(make_pack())
    train, _ = splits.draw(pack.label("train").tolist(), pack.label("val").tolist(), 4, 2)
    image, label = pack.image("train")[train], pack.label("train")[train]
    means = torch.stack([image[label == c].mean(0) for c in range(5)])
    means = means / means.norm(dim=-1, keepdim=True)
    right = (pack.image("test") @ means.T).argmax(1) == pack.label("test")
    result = harness.run(methods=["ncm"], datasets=["toy"], shots=[4], seeds=[2]).computed[0]
    assert accuracy([result]) == [100 * int(right.sum()) / 50]


@pytest.mark.parametrize(
    ("selection", "labels"), [("val-min4", 20), ("val-full", 30), ("none", 0), ("support-cv", 0), ("oracle", 50)]
)
def test_the_record_says_which_labels_were_used(make_pack: MakePack, selection: str, labels: int) -> None:
    make_pack()
    result = harness.run(methods=["tip"], datasets=["toy"], shots=[8], seeds=[1], selection=selection).computed[0]
    assert result.labels_for_selection == labels
    assert result.configurations_tried == (1 if selection == "none" else 4000)
    assert (result.val is not None) == (selection in ("val-min4", "val-full", "support-cv"))


def test_one_shot_cannot_be_cross_validated_and_the_record_says_so(make_pack: MakePack) -> None:
    make_pack("novald", val=False)
    spec = {"methods": ["tip", "linear_probe", "zero_shot"], "datasets": ["novald"], "seeds": [1]}
    one = harness.run(**spec, shots=[1], selection="support-cv").computed
    assert [result.configurations_tried for result in one] == [1, 1, 1]
    assert [any("no cross-validation" in note for note in result.notes) for result in one] == [True, True, False]
    four = harness.run(**spec, shots=[4], selection="support-cv").computed
    assert [result.labels_for_selection for result in four] == [0, 0, 0]
    assert [result.configurations_tried for result in four] == [4000, 13, 1]
    assert [result.notes for result in four] == [["no augmented views in the pack: the plain image stands in"], [], []]


def test_one_shot_uses_one_validation_image_per_class(make_pack: MakePack) -> None:
    make_pack()
    result = harness.run(methods=["tip"], datasets=["toy"], shots=[1], seeds=[1]).computed[0]
    assert result.labels_for_selection == 5


def test_the_same_command_again_does_nothing(make_pack: MakePack, home: Path) -> None:
    make_pack()
    spec = {"methods": ["zero_shot", "tip"], "datasets": ["toy"], "shots": [1, 2], "seeds": [1, 2]}
    assert len(harness.run(**spec).computed) == 8
    before = {path: path.stat().st_mtime_ns for path in Path("results/cells").iterdir()}
    assert harness.run(**spec).computed == []
    assert {path: path.stat().st_mtime_ns for path in Path("results/cells").iterdir()} == before
    wider = harness.run(**{**spec, "seeds": [3, 2, 1], "methods": ["tip", "zero_shot"]})
    assert len(wider.computed) == 4  # the order of lists does not matter, only the new seed is computed
    assert len(harness.run(**spec, force=True).computed) == 8


def test_other_data_under_the_same_name_is_another_cell(make_pack: MakePack) -> None:
    import shutil

    folder = make_pack()
    first = harness.run(methods=["zero_shot"], datasets=["toy"], shots=[1], seeds=[1]).computed[0]
    shutil.rmtree(folder)
    make_pack(dim=24)
    second = harness.run(methods=["zero_shot"], datasets=["toy"], shots=[1], seeds=[1]).computed[0]
    assert first.key != second.key


def test_results_do_not_depend_on_what_ran_before(make_pack: MakePack) -> None:
    make_pack()
    together = harness.run(methods=["tip_f", "dac"], datasets=["toy"], shots=[2], seeds=[1, 2], results="a").computed
    alone = harness.run(methods=["dac"], datasets=["toy"], shots=[2], seeds=[2], results="b").computed[0]
    same = next(result for result in together if result.key == alone.key)
    assert (same.test, same.hyperparameters) == (alone.test, alone.hyperparameters)


def test_one_failed_cell_stops_no_other_and_is_tried_again(home: Path, make_pack: MakePack) -> None:
    make_pack()
    report = harness.run(methods=[failing(home), "zero_shot"], datasets=["toy"], shots=[1], seeds=[1, 2, 3])
    assert len(report.computed) == 6
    assert [result.error for result in report.failed] == ["RuntimeError: seed 2 is unlucky"]
    again = harness.run(methods=[failing(home), "zero_shot"], datasets=["toy"], shots=[1], seeds=[1, 2, 3])
    assert [result.identity.seed for result in again.computed] == [2]


@pytest.mark.parametrize(
    ("logits", "said"),
    [
        ("image @ self.weight.T * float('nan')", "NaN"),
        ("image @ self.weight[:3].T", "shape (50, 3), not (50, 5)"),
        ("(image @ self.weight.T)[0]", "shape (5,), not (50, 5)"),
        ("{}[0]", "KeyError"),
        ("None", "logits returned NoneType"),
        ("(image - image.mean(0)) @ self.weight.T", "declare transductive"),
        ("exec('raise SystemExit(0)')", "SystemExit"),
        ("[][0:'x' * 100_000]", "TypeError"),
    ],
)
def test_logits_that_break_the_contract_fail_the_cell(home: Path, make_pack: MakePack, logits: str, said: str) -> None:
    make_pack()
    result = harness.run(methods=[failing(home, logits)], datasets=["toy"], shots=[1], seeds=[1]).computed[0]
    assert result.status == "failed"
    assert said in (result.error or "")
    assert len(result.error or "") < 500


REPORTS = """
from dataclasses import dataclass
from harness import Method

@dataclass
class Reports(Method):
    odd: float = ODD

    def fit(self, episode):
        self.weight = episode.text.weight
        return RETURN

    def logits(self, image):
        return image @ self.weight.T

    def facts(self):
        return {"fact": FACT}

    def trained_parameters(self):
        return COUNT
"""


@pytest.mark.parametrize(
    "changes",
    [
        {"ODD": "float('inf')"},
        {"ODD": "print"},
        {"FACT": "float('nan')"},
        {"FACT": "self.weight"},
        {"COUNT": "1.5"},
        {"RETURN": "None"},
    ],
)
def test_what_cannot_be_recorded_fails_the_cell_and_stops_no_other(
    home: Path, make_pack: MakePack, changes: dict[str, str]
) -> None:
    make_pack()
    source = REPORTS
    for name, value in {"ODD": "1.0", "FACT": "1", "COUNT": "0", "RETURN": "self", **changes}.items():
        source = source.replace(name, value)
    (home / "reports.py").write_text(source)
    report = harness.run(methods=["./reports.py", "zero_shot"], datasets=["toy"], shots=[1], seeds=[1])
    assert sorted(result.status for result in report.computed) == ["failed", "ok"]
    assert harness.load().problems == []


def test_a_method_cannot_change_the_process_for_the_next_cell(home: Path, make_pack: MakePack) -> None:
    make_pack()
    body = "torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False); torch.manual_seed(5); self.weight = episode.text.weight"
    (home / "rude.py").write_text(
        f"import torch\nfrom harness import Method\nclass Rude(Method):\n    def fit(self, episode):\n        {body}\n        return self\n"
        "    def logits(self, image):\n        return image @ self.weight.T\n"
    )
    state = torch.get_rng_state()
    harness.run(methods=["./rude.py"], datasets=["toy"], shots=[1], seeds=[1])
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == (torch.float32, True)
    assert torch.get_rng_state().equal(state)


def test_a_failure_does_not_replace_a_success(home: Path, make_pack: MakePack, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pack()
    (home / "flaky.py").write_text(
        FAILING.replace("if episode.seed == 2", "import os\n        if 'FLAKY' in os.environ").replace(
            "LOGITS", "image @ self.weight.T"
        )
    )
    spec = {"methods": ["./flaky.py"], "datasets": ["toy"], "shots": [1], "seeds": [1]}
    harness.run(**spec)
    monkeypatch.setenv("FLAKY", "1")
    assert len(harness.run(**spec, force=True).failed) == 1
    assert [result.status for result in harness.load().results] == ["ok"]


def test_a_method_that_trains_the_encoder_is_refused_in_one_line(home: Path, make_pack: MakePack) -> None:
    make_pack()
    source = FAILING.replace("LOGITS", "image").replace("    def fit", "    trains_encoder = True\n\n    def fit")
    (home / "deep.py").write_text(source)
    with pytest.raises(
        UsageError, match=r"deep trains through the encoder and needs images, but toy is a pack"
    ) as told:
        harness.run(methods=["./deep.py"], datasets=["toy"], shots=[1], seeds=[1])
    assert "\n" not in str(told.value)


def test_repeated_shots_and_seeds_count_once(make_pack: MakePack) -> None:
    make_pack()
    assert len(harness.run(methods="zero_shot", datasets="toy", shots=[1, 1], seeds=[2, 2]).computed) == 1
    assert len(harness.run(methods="zero_shot", datasets="TOY", shots=1).computed) == 2  # seeds 1 and 3


def test_the_scale_of_a_pack_is_part_of_the_cell(make_pack: MakePack) -> None:
    import shutil

    import msgspec

    folder = make_pack()
    first = harness.run(methods=["tip"], datasets=["toy"], shots=[1], seeds=[1]).computed[0]
    pack = cache.open_pack(folder)
    parts = {part: pack.tensors(part) for part in pack.parts}
    info = msgspec.to_builtins(pack.info)
    shutil.rmtree(folder)
    cache.write_pack(folder, dataset="toy", encoder=info["encoder"], classes=info["classes"], scale=1.0, parts=parts)
    assert harness.run(methods=["tip"], datasets=["toy"], shots=[1], seeds=[1]).computed[0].key != first.key


def test_rows_are_scored_in_blocks_without_changing_any(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness import runner

    image = torch.randn(37, 4, generator=torch.Generator().manual_seed(0))
    method = type("Echo", (Method,), {"fit": lambda self, e: self, "logits": lambda self, x: x})()
    whole = predict(method, image, 4)
    monkeypatch.setattr(runner, "ROWS", 5)
    assert predict(method, image, 4).equal(whole)
    assert whole.equal(image.argmax(1))


def test_a_set_with_fewer_classes_is_scored_among_those_alone() -> None:
    logits = torch.tensor([[9.0, 1.0, 2.0, 3.0], [0.0, 5.0, 9.0, 4.0]])
    method = type("Echo", (Method,), {"fit": lambda self, e: self, "logits": lambda self, x: x})()
    assert predict(method, logits, 4).tolist() == [0, 2]
    assert predict(method, logits, 4, columns=(3, 1)).tolist() == [0, 1]  # labels of the smaller set


def test_counts_are_integers_over_all_and_per_class() -> None:
    found = count(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2]), 4)
    assert (found.correct, found.total, found.accuracy) == (3, 4, 75.0)
    assert found.per_class_accuracy == [100.0, 100.0, 50.0, None]


@pytest.mark.parametrize(
    ("spec", "kind", "said"),
    [
        ({"methods": ["nope"]}, UsageError, "No method named 'nope'"),
        ({"datasets": ["tpy"]}, UsageError, "Did you mean toy"),
        ({"shots": [0]}, UsageError, "--shots 0"),
        ({"shots": [21]}, UsageError, "20 training images"),
        ({"shots": [1.5]}, UsageError, "whole numbers"),
        ({"seeds": [-1]}, UsageError, "--seeds -1"),
        ({"seeds": [2**32]}, UsageError, "whole number from 0"),
        ({"selection": "val-min5"}, UsageError, "Did you mean val-min4"),
        ({"methods": []}, NothingSelected, "No method"),
        ({"seeds": []}, NothingSelected, "No seed"),
        ({"executor": "ray"}, UsageError, "--executor ray"),
        ({"encoder": "ViT-B-32"}, UsageError, "made-up features"),
        ({"device": "cuda"}, Missing, "cuda"),
        ({"device": "gpu0"}, UsageError, "gpu0"),
    ],
)
def test_an_impossible_request_is_refused_before_anything_runs(
    make_pack: MakePack, spec: dict[str, object], kind: type[Exception], said: str
) -> None:
    if spec.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    make_pack()
    with pytest.raises(kind) as told:
        harness.run(**{"methods": ["zero_shot"], "datasets": ["toy"], "shots": [1], **spec})
    assert said in str(told.value)
    assert "\n" not in str(told.value)
    assert Store(Path("results")).load().results == []


def test_a_pack_without_validation_images_offers_selection_without_labels(make_pack: MakePack) -> None:
    make_pack("novald", val=False)
    with pytest.raises(UsageError, match="--selection none"):
        harness.run(methods=["tip"], datasets=["novald"], shots=[2], seeds=[1])
    assert harness.run(methods=["tip"], datasets=["novald"], shots=[2], seeds=[1], selection="none").failed == []


def test_a_pack_of_fixed_shots_offers_those_alone(make_pack: MakePack) -> None:
    make_pack("fixed", fewshot={"shots": 20, "seed": 7})
    with pytest.raises(UsageError, match="--shots 20 --seeds 7"):
        harness.run(methods=["zero_shot"], datasets=["fixed"], shots=[16], seeds=[1])
    computed = harness.run(methods=["ncm"], datasets=["fixed"]).computed  # shots and seed are the pack's own
    assert [(result.identity.shots, result.identity.seed, result.status) for result in computed] == [(20, 7, "ok")]


def test_a_record_tells_how_it_was_made(make_pack: MakePack) -> None:
    make_pack()
    result = harness.run(methods=["linear_probe"], datasets=["toy"], shots=[4], seeds=[1]).computed[0]
    assert result.trained_parameters == 5 * (16 + 1)
    assert int(result.facts["iterations"]) > 0
    assert result.timing.fit_s is not None
    assert result.timing.fit_s > 0
    assert result.peak_memory_bytes is None or result.peak_memory_bytes > 1e6
    assert {"python", "torch", "machine", "started", "seconds"} <= set(result.provenance)
    assert {"split", "prompts", "shots", "features"} <= set(result.digests)


def test_python_and_the_command_do_the_same(
    make_pack: MakePack, harness_command: Callable[..., tuple[int, str, str]]
) -> None:
    make_pack()
    computed = harness.run(methods=["tip"], datasets=["toy"], shots=[2], seeds=[1], results="a").computed[0]
    harness_command("run", "--methods", "tip", "--datasets", "toy", "--shots", 2, "--seeds", 1, "--results", "b")
    written = harness.load("b").results[0]
    assert (written.key, written.test) == (computed.key, computed.test)


SLOW = """
import time
from dataclasses import dataclass
from harness import Method

@dataclass
class Slow(Method):
    def fit(self, episode):
        time.sleep(0.15)
        self.weight = episode.text.weight
        return self

    def logits(self, image):
        return image @ self.weight.T
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_cut_short_loses_only_the_cell_it_was_in(home: Path, make_pack: MakePack, how: signal.Signals) -> None:
    make_pack()
    (home / "slow.py").write_text(SLOW)
    words = ["run", "--methods", "./slow.py", "--datasets", "toy", "--shots", "1,2,4,8,16", "--seeds", "1,2,3,4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *words],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[3/"):
            break
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    if how == signal.SIGINT:
        assert "interrupted" in err
        assert "Traceback" not in err
    loaded = harness.load("results")
    assert loaded.problems == []
    assert 3 <= len(loaded.results) < 20
    before = {result.key: result.checksum for result in loaded.results}
    rest = harness.run(methods=["./slow.py"], datasets=["toy"], shots=[1, 2, 4, 8, 16], seeds=[1, 2, 3, 4])
    assert len(rest.computed) == 20 - len(before)
    after = {result.key: result.checksum for result in harness.load("results").results}
    assert len(after) == 20
    assert before.items() <= after.items()


def test_a_damaged_record_is_computed_again(make_pack: MakePack) -> None:
    make_pack()
    spec = {"methods": ["zero_shot"], "datasets": ["toy"], "shots": [1], "seeds": [1, 2]}
    harness.run(**spec)
    path = next(Path("results/cells").iterdir())
    path.write_text(path.read_text()[:-40])
    assert len(harness.run(**spec).computed) == 1
    assert len(harness.load().results) == 2


def test_two_runs_at_once_share_a_store(home: Path, make_pack: MakePack) -> None:
    make_pack()
    words = ["run", "--methods", "zero_shot,ncm,tip", "--datasets", "toy", "--shots", "1,2,4", "--seeds", "1,2,3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "harness.cli", *words]
    both = [
        subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    loaded = harness.load()
    assert (len(loaded.results), loaded.problems) == (27, [])


def test_json_output_is_json_alone(make_pack: MakePack, harness_command: Callable[..., tuple[int, str, str]]) -> None:
    make_pack()
    started = time.perf_counter()
    code, out, err = harness_command("run", "--methods", "zero_shot", "--datasets", "toy", "--shots", 1, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["computed"] == 3
    assert all(record["status"] == "ok" for record in document["records"])
    assert "[1/3]" in err
    assert time.perf_counter() - started < 60


def test_a_pack_may_stand_in_for_a_built_in_data_set(
    home: Path, make_pack: MakePack, harness_command: Callable[..., tuple[int, str, str]]
) -> None:
    folder = make_pack("dtd", folder=home / "pack")
    assert harness_command("features", "import", folder)[0] == 0
    code, out, err = harness_command("run", "--datasets", "dtd", "--methods", "zero_shot", "--shots", 1, "--json")
    assert code == 0, err
    assert "using the imported pack of made-up features" in err
    assert {record["dataset"] for record in json.loads(out)["records"]} == {"dtd"}
    code, _, err = harness_command("run", "--datasets", "dtd", "--methods", "zero_shot", "--encoder", "demo")
    assert (code, "harness data prepare dtd" in err) == (8, True)  # another encoder needs the images


def test_the_reference_range_follows_the_origin_of_a_pack_and_not_its_name(make_pack: MakePack) -> None:
    from harness import find
    from harness.plan import make_source

    folder = make_pack("eurosat")
    folder.rename(folder.with_name("mine"))
    source = make_source("mine", None, "single", "cpu", lambda _: None)
    assert source.episode(1, 1, find.method("zero_shot").cls).dataset == "eurosat"


def test_a_renamed_tip_adapter_import_is_searched_as_its_data_set(home: Path) -> None:
    """`caches/dtd` imported as `dtd_rn50` keeps DTD's range: beta to 13, alpha to 13."""
    from harness import find, importers
    from harness.plan import make_source

    folder = home / "caches" / "dtd"
    folder.mkdir(parents=True)
    label = torch.arange(3).repeat_interleave(2)
    image = torch.nn.functional.normalize(torch.eye(3, 8)[label] + 0.1, dim=-1)
    torch.save(image.T.contiguous(), folder / "keys_2shots.pt")
    torch.save(torch.eye(3)[label], folder / "values_2shots.pt")
    torch.save(torch.eye(3, 8).T.contiguous(), folder / "text_weights.pt")
    for part in ("val", "test"):
        torch.save(image, folder / f"{part}_f.pt")
        torch.save(label, folder / f"{part}_l.pt")
    (home / "names.txt").write_text("a\nb\nc\n")
    importers.import_tip_adapter(folder, "RN50", home / "names.txt", "dtd_rn50")
    source = make_source("dtd_rn50", None, "single", "cpu", lambda _: None)
    method = find.method("tip").cls().fit(source.episode(2, 1, find.method("tip").cls))
    assert method.logit_grid["beta"][-1] == pytest.approx(0.1 + 199 * 12.9 / 200)
    assert method.logit_grid["alpha"][-1] == pytest.approx(0.1 + 19 * 12.9 / 20)


def test_what_a_suite_lacks_is_left_out_and_told_at_the_end(
    home: Path, make_pack: MakePack, harness_command: Callable[..., tuple[int, str, str]]
) -> None:
    """Two of the eleven are here, as packs: they run, one line names the others, and the exit code is 8."""
    for name in ("dtd", "eurosat"):
        make_pack(name)
    words = ("run", "--methods", "zero_shot", "--shots", 1, "--seeds", 1, "--json")
    code, out, err = harness_command(*words, "--datasets", "core11")
    document = json.loads(out)
    assert code == 8
    assert sorted(record["dataset"] for record in document["records"]) == ["dtd", "eurosat"]
    assert len(document["obstacles"]) == 1
    left_out = [line for line in err.splitlines() if "left out" in line]
    assert len(left_out) == 1
    assert "caltech101" in left_out[0]
    assert "dtd" not in left_out[0].partition("The first")[0]
    code, out, err = harness_command(*words, "--datasets", "core11,caltech101")  # typed: nothing runs without it
    assert (code, out) == (8, "")
    assert "harness data prepare caltech101" in err
    assert harness_command(*words, "--datasets", "dtd,eurosat")[0] == 0


def test_a_suite_of_which_nothing_is_here_is_missing(
    home: Path, harness_command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = harness_command("run", "--methods", "zero_shot", "--datasets", "core11", "--shots", 1)
    assert (code, out) == (8, "")
    assert "harness data prepare" in err


def test_a_shifted_set_asked_for_by_name_needs_its_source(
    home: Path, make_pack: MakePack, harness_command: Callable[..., tuple[int, str, str]]
) -> None:
    make_pack("dtd")
    words = ("run", "--methods", "zero_shot", "--shots", 1, "--seeds", 1)
    assert harness_command(*words, "--datasets", "dtd,imagenet_v2")[0] == 8
    assert not list(Path("results/cells").glob("*.json"))
    code, _, err = harness_command(*words, "--datasets", "dtd,ood4")
    assert (code, "imagenet" in err) == (8, True)
    assert len(list(Path("results/cells").glob("*.json"))) == 1


# -- what a cell costs besides its method ------------------------------------------------------------


@pytest.mark.parametrize("raw", [False, True])
def test_drawn_rows_are_those_of_the_plain_form(raw: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness import episodes

    views = torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(0))
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:11]
    plain = views[:, rows] if raw else views[:, rows] / views[:, rows].norm(dim=-1, keepdim=True)
    for block in (4, 1024):
        monkeypatch.setattr(episodes, "BLOCK", block)
        assert episodes._drawn(views, rows, raw, "cpu").equal(plain)


def test_two_spaces_of_support_and_views_stand_side_by_side_at_unit_norm(make_pack: MakePack) -> None:
    from harness import episodes, find

    pack = cache.open_pack(make_pack())
    train = pack.features("train")
    views = torch.stack([train.image * scale for scale in (2.0, 3.0)])
    spaces = [type(train)(train.image, train.label, views), type(train)(train.image.flip(0), train.label, views[:1])]
    method = type("Two", (find.method("zero_shot").cls,), {"views": 2, "second_space": "imo"})
    source = type("Where", (), {"device": "cpu", "origin": "toy"})
    support = episodes._episode(source, spaces, [7, 3], pack, (1, 1), method).support
    unit = [one.image[[7, 3]] / one.image[[7, 3]].norm(dim=-1, keepdim=True) for one in spaces]
    assert support.image.equal(torch.cat(unit, -1))
    assert support.label.equal(train.label[[7, 3]])
    assert support.views is not None
    assert support.views.shape == (1, 2, 32)  # as many views as both have
    assert torch.allclose(support.views, torch.cat([unit[0], unit[0]], -1), atol=1e-6)


def test_logits_are_finite_even_where_their_sum_is_not() -> None:
    huge = torch.full((2, 3), 3e38)
    method = type("Echo", (Method,), {"fit": lambda self, e: self, "logits": lambda self, x: x})()
    assert predict(method, huge, 3).tolist() == [0, 0]
    for bad in (float("inf"), float("nan"), -float("inf")):
        broken = huge.clone()
        broken[1, 2] = bad
        with pytest.raises(ValueError, match="NaN or infinity"):
            predict(method, broken, 3)
    with pytest.raises(ValueError, match="NaN or infinity"):  # their sum is NaN
        predict(method, torch.tensor([[float("inf"), -float("inf")]]), 2)


def test_the_pace_of_the_machine_stands_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness import clock

    measured = iter([1.0, 2.0])
    monkeypatch.setattr(clock, "_paces", {})
    monkeypatch.setattr(clock, "reference", lambda device: next(measured))
    assert [clock.pace("cpu"), clock.pace("cpu")] == [1.0, 1.0]
    monkeypatch.setattr(clock, "FRESH", 0.0)
    assert clock.pace("cpu") == 2.0


def test_freed_memory_is_kept_until_the_next_measurement() -> None:
    from harness import clock

    if clock._glibc() is None:
        pytest.skip("needs glibc")
    script = """if True:
        from pathlib import Path
        from harness import clock
        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
        clock.keep_freed_memory()
        before = resident()
        block = bytearray(b"x") * (400 << 20)
        held = resident()
        del block
        freed = resident()
        clock.reset_peak_memory("cpu")
        print(held - before, freed - before, resident() - before)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    held, freed, trimmed = map(int, done.stdout.split())
    assert held >= 390
    assert freed >= 390
    assert trimmed <= 20
