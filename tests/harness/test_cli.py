"""The command line: flags over environment over file over defaults; one line and the right code for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import harness
from harness.cli import build_parser, main, parse

Command = Callable[..., tuple[int, str, str]]
MakePack = Callable[..., Path]
ROOT = Path(harness.__file__).parents[1]
TOY = ("--datasets", "toy", "--shots", "2", "--seeds", "1,2")


def run_python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT, check=False)


# -- flags -------------------------------------------------------------------------------------------


def test_lists_take_commas_and_repetition() -> None:
    options = parse(
        ["run", "--methods", "tip[alpha=1,beta=2],dac", "--methods", "ncm", "--shots", "1,2", "--shots", "4"]
    )
    assert options.methods == ["tip[alpha=1,beta=2]", "dac", "ncm"]
    assert options.shots == [1, 2, 4]


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "c.toml").write_text("[run]\nshots = [8]\nseeds = [5, 6]\nselection = 'none'\ndry-run = true\n")
    assert parse(["run"]).selection == "val-min4"
    options = parse(["run", "--config", "c.toml"])
    assert (options.shots, options.seeds, options.selection, options.dry_run) == ([8], [5, 6], "none", True)
    monkeypatch.setenv("HARNESS_RUN_SHOTS", "2,4")
    monkeypatch.setenv("HARNESS_RUN_CONFIG", "c.toml")
    options = parse(["run", "--seeds", "9"])
    assert (options.shots, options.seeds, options.selection) == ([2, 4], [9], "none")
    monkeypatch.setenv("HARNESS_RUN_FORCE", "1")
    monkeypatch.setenv("HARNESS_DATA_SHOTS_SEED", "7")
    monkeypatch.setenv("HARNESS_DATA_ADD_NAME", "mine")
    monkeypatch.setenv("HARNESS_DATA_ADD_TEMPLATES", "a {}.")
    monkeypatch.setenv("HARNESS_FEATURES_IMPORT_FROM", "tip-adapter")
    added = parse(["data", "add", "folder"])
    assert (added.name, added.templates) == ("mine", ["a {}."])
    assert parse(["features", "import", "folder"]).kind == "tip-adapter"
    assert parse(["run"]).force is True
    assert parse(["data", "shots", "toy"]).seed == 7


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[run]\nshoots = [1]", "Did you mean shots"),
        ("[run]\nshots = ['many']", "shots in c.toml"),
        ("[run]\nforce = 'maybe'", "true or false"),
        ("shots = [1]", "needs a table [run]"),
        ("[run", "not TOML"),
    ],
)
def test_a_wrong_configuration_file_is_named(home: Path, harness_command: Command, content: str, said: str) -> None:
    (home / "c.toml").write_text(content)
    code, _, err = harness_command("run", "--config", "c.toml")
    assert code == 2
    assert said in err
    assert "c.toml" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["rnu"], 2, "Did you mean run"),
        (["data"], 2, "say what to do: list, prepare"),
        (["data", "lst"], 2, "Did you mean list"),
        (["run", "--shot", "x"], 2, "whole numbers"),
        (["run", "--colour"], 2, "--colour"),
        (["run", "--config", "absent.toml"], 2, "absent.toml"),
        (["run", "--methods", "tipp"], 2, "Did you mean tip"),
        (["run", "--datasets", "toyy", "--methods", "tip"], 2, "No data set or suite named 'toyy'"),
        (["run", "--results", "/proc/nowhere", *TOY], 8, "/proc/nowhere"),
        (["table"], 5, "No results in results yet"),
        (["table", "--format", "pdf"], 2, "No format named 'pdf'"),
        (["results", "show", "abc"], 5, "No results"),
        (["methods", "info", "dacc"], 2, "Did you mean dac"),
        (["methods", "test", "./none.py"], 2, "none.py"),
        (["data", "shots", "toyy"], 2, "toyy"),
        (["data", "add", "absent", "--name", "x"], 8, "absent"),
        (["data", "add", "absent"], 2, "--name"),
        (["features", "verify", "none"], 2, "none"),
        (["features", "import", "absent"], 8, "absent"),
        (["features", "import", "absent", "--from", "zip"], 2, "zip"),
        (["features", "import", "absent", "--from", "tip-adapter"], 2, "--encoder"),
        (["features", "import", "absent", "--shots", "4"], 2, "--shots is for --from tip-adapter"),
        (["data", "shots", "toy"], 2, "toy is a pack of features"),
        (["data", "prepare", "dtd", "--from", ""], 2, "is empty"),
        (["data", "prepare", "dtdd"], 2, "Did you mean dtd"),
        (["data", "prepare", "dtd", "eurosat", "--from", "x"], 2, "one data set at a time"),
        (["run", "--methods", "zero_shot", "--datasets", "dtd"], 8, "harness data prepare dtd"),
        (["run", "--methods", "zero_shot", "--datasets", "demo_digits", "--prompts", "poems"], 2, "poems"),
    ],
)
def test_a_mistake_is_one_line_and_its_own_exit_code(
    harness_command: Command, make_pack: MakePack, words: list[str], code: int, said: str
) -> None:
    make_pack()
    got, out, err = harness_command(*words)
    assert said in err
    assert got == code, err
    assert [line.startswith("harness:") for line in err.splitlines()].count(True) == 1, err
    assert "Traceback" not in err
    assert out == ""


def test_an_internal_error_is_one_line_and_a_traceback_only_on_request(
    harness_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness import method_commands

    def broken(options: Any) -> int:
        raise ZeroDivisionError("our fault")

    monkeypatch.setattr(method_commands, "methods_list", broken)
    code, _, err = harness_command("methods", "list")
    assert (code, "Traceback" in err, "our fault" in err) == (3, False, True)
    code, _, err = harness_command("methods", "list", "--debug")
    assert (code, "Traceback" in err) == (3, True)


def test_an_interrupt_ends_with_130(harness_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness import method_commands

    def interrupted(options: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(method_commands, "methods_list", interrupted)
    assert harness_command("methods", "list")[0] == 130


def test_every_command_has_help_and_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    import importlib

    from harness.cli import _leaves

    leaves = list(_leaves(build_parser()))
    assert len(leaves) >= 15
    for path, leaf in leaves:
        file, _, function = leaf.get_default("command").partition(":")
        assert callable(getattr(importlib.import_module(f"harness.{file}"), function))
        with pytest.raises(SystemExit) as ended:
            main([*path, "--help"])
        assert ended.value.code == 0
        assert "usage: harness" in capsys.readouterr().out


def test_help_and_table_import_no_torch(make_pack: MakePack, harness_command: Command) -> None:
    make_pack()
    harness_command("run", "--methods", "zero_shot", *TOY)
    store = Path("results").absolute()
    code = "import sys\nfrom harness.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
    code += (
        "bad = {'torch', 'pandas', 'numpy', 'open_clip'} & set(sys.modules)\nsys.exit(f'imports {bad}' if bad else 0)"
    )
    for words in (["--help"], ["table", "--results", str(store)], ["table", "--results", str(store), "--format", "md"],
                  ["results", "list", "--results", str(store)], ["rnu"]):  # fmt: skip
        done = run_python(code, *words)
        assert done.returncode == 0, (words, done.stderr)


def test_a_run_that_finds_everything_done_imports_no_torch(home: Path, harness_command: Command) -> None:
    """Torch takes seconds to import; a second run of images has nothing to ask of it."""
    harness_command("data", "add", pictures(home / "pics"), "--name", "colours")
    words = [
        "run",
        "--datasets",
        "colours",
        "--methods",
        "zero_shot",
        "--encoder",
        "demo",
        "--results",
        str(home / "r"),
    ]
    assert harness_command(*words)[0] == 0
    code = "import sys\nfrom harness.cli import main\nassert main(sys.argv[1:]) == 0\n"
    done = run_python(code + "sys.exit('torch' in sys.modules)", *words)
    assert done.returncode == 0, done.stderr
    assert "Nothing to compute" in done.stderr


def test_help_and_table_answer_within_half_a_second(make_pack: MakePack, harness_command: Command) -> None:
    """Best of three, against the bare interpreter, so that a loaded machine does not decide."""
    make_pack()
    harness_command("run", "--methods", "zero_shot", *TOY)
    store = str(Path("results").absolute())
    code = "import sys; from harness.cli import main; sys.exit(main(sys.argv[1:]))"

    def best(program: str, *words: str) -> float:
        times = []
        for _ in range(3):
            started = time.perf_counter()
            run_python(program, *words)
            times.append(time.perf_counter() - started)
        return min(times)

    bare = best("pass")
    assert best(code, "--help") < 0.5 + bare
    assert best(code, "table", "--results", store, "--format", "md") < 0.5 + bare


# -- commands ----------------------------------------------------------------------------------------


def test_run_shows_its_own_table_and_says_when_there_is_nothing_to_do(
    make_pack: MakePack, harness_command: Command
) -> None:
    make_pack()
    code, out, err = harness_command("run", "--methods", "zero_shot,ncm", *TOY)
    assert code == 0
    assert "zero_shot" in out
    assert "average" in out
    assert "4 cells: 0 done already, 4 to compute" in err
    code, again, err = harness_command("run", "--methods", "zero_shot,ncm", *TOY)
    assert "Nothing to compute: all 4 cells" in err
    assert again == out


def test_run_ends_with_1_when_a_cell_failed_and_with_0_once_it_is_mended(
    home: Path, make_pack: MakePack, harness_command: Command
) -> None:
    make_pack()
    source = "from harness import Method\nclass F(Method):\n    def fit(self, e):\n        raise ValueError('no')\n    def logits(self, x):\n        return x\n"
    (home / "f.py").write_text(source)
    code, out, _ = harness_command("run", "--methods", "zero_shot,./f.py", *TOY)
    assert code == 1
    assert "ValueError: no" in out
    (home / "f.py").write_text(
        source.replace("raise ValueError('no')", "self.w = e.text.weight; return self").replace(
            "return x\n", "return x @ self.w.T\n"
        )
    )
    code, out, _ = harness_command("run", "--methods", "zero_shot,./f.py", *TOY)
    assert code == 0


def test_a_dry_run_prints_the_plan_and_computes_nothing(make_pack: MakePack, harness_command: Command) -> None:
    make_pack()
    code, out, _ = harness_command("run", "--methods", "zero_shot", *TOY, "--dry-run")
    assert (code, Path("results").exists()) == (0, False)
    assert "2 cells, 2 to compute" in out
    harness_command("run", "--methods", "zero_shot", *TOY)
    cells = json.loads(harness_command("run", "--methods", "zero_shot,tip", *TOY, "--dry-run", "--json")[1])
    assert [(cell["method"], cell["done"]) for cell in cells] == [
        ("zero_shot", True), ("tip", False), ("zero_shot", True), ("tip", False)
    ]  # fmt: skip


def test_several_policies_in_one_run_give_the_records_of_one_run_each(
    make_pack: MakePack, harness_command: Command
) -> None:
    make_pack()
    words = ("run", "--methods", "tip,zero_shot", "--datasets", "toy", "--shots", 2, "--seeds", "1,2")
    cells = json.loads(harness_command(*words, "--selection", "oracle,val-min4,none", "--dry-run", "--json")[1])
    asked = [(cell["seed"], cell["method"], cell["selection"]) for cell in cells]
    assert asked[:6] == [
        (1, method, policy) for method in ("tip", "zero_shot") for policy in ("none", "val-min4", "oracle")
    ]
    assert len(asked) == 12
    code, _, err = harness_command(*words, "--selection", "oracle,val-min4,none,none", "--results", "together")
    assert (code, "12 cells: 0 done already" in err, "toy tip 2 shots seed 1 oracle" in err) == (0, True, True)
    for policy in ("none", "val-min4", "oracle"):
        assert harness_command(*words, "--selection", policy, "--results", "apart")[0] == 0
    found = {
        folder: {result.key: (result.test, result.hyperparameters) for result in harness.load(folder).results}
        for folder in ("together", "apart")
    }
    assert found["together"] == found["apart"]
    assert harness_command("table", "--results", "together", "--selection", "all")[0] == 0
    code, _, err = harness_command(*words, "--selection", "none,val-min5")
    assert (code, "Did you mean val-min4" in err) == (2, True)
    code, _, err = harness_command(*words, "--selection", "none,oracle", "--isolate")
    assert (code, "--isolate keeps them" in err) == (2, True)


def test_table_filters_by_every_axis(make_pack: MakePack, harness_command: Command) -> None:
    make_pack()
    harness_command("run", "--methods", "zero_shot,ncm", "--datasets", "toy", "--shots", "1,2", "--seeds", "1")
    rows = json.loads(harness_command("table", "--format", "json", "--methods", "ncm", "--shots", "2")[1])["rows"]
    assert [(row["method"], row["shots"]) for row in rows] == [("ncm", 2)]
    code, _, err = harness_command("table", "--methods", "dac")
    assert (code, "No method with results named 'dac'" in err) == (5, True)


def test_table_shows_the_sound_records_beside_a_damaged_one(make_pack: MakePack, harness_command: Command) -> None:
    make_pack()
    harness_command("run", "--methods", "zero_shot,ncm", *TOY)
    path = sorted(Path("results/cells").iterdir())[0]
    path.write_text("{}")
    code, out, err = harness_command("table", "--format", "csv")
    assert code == 6
    assert str(path) in err
    assert "zero_shot" in out
    assert path.exists()  # looking changes nothing


def test_results_list_show_and_schema(make_pack: MakePack, harness_command: Command) -> None:
    make_pack()
    harness_command("run", "--methods", "zero_shot", *TOY)
    rows = json.loads(harness_command("results", "list", "--json")[1])
    assert [row["method"] for row in rows] == ["zero_shot", "zero_shot"]
    shown = json.loads(harness_command("results", "show", rows[0]["key"][:10])[1])
    assert shown["key"] == rows[0]["key"]
    assert harness_command("results", "show", "zzz")[0] == 2
    assert "Result" in json.loads(harness_command("results", "schema")[1])["$defs"]
    assert rows[0]["key"][:12] in harness_command("results", "list")[1]


def test_methods_list_and_info(harness_command: Command) -> None:
    from harness import find

    rows = json.loads(harness_command("methods", "list", "--json")[1])
    assert [row["name"] for row in rows] == find.method_names()
    assert all(row["title"] and row["paper"] for row in rows)
    about = json.loads(harness_command("methods", "info", "tip", "--json")[1])
    assert len(about["logit_grid"]["beta"]) * len(about["logit_grid"]["alpha"]) == about["configurations"] == 4000
    text = harness_command("methods", "info", "tip")[1]
    assert "alpha = " in text
    assert "searched: " in text
    assert "Tip-Adapter" in harness_command("methods", "list")[1]


def test_methods_list_tells_needs_and_imports_no_torch(home: Path, harness_command: Command) -> None:
    harness_command("methods", "list")  # the card is filled
    code = (
        "import sys\nfrom harness.cli import main\ncode = main(['methods', 'list', '--json'])\n"
        "assert 'torch' not in sys.modules, 'torch'\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["tip"]["needs"] == ["10 views", "validation"] and not rows["tip"]["trains"]
    assert rows["coop"]["needs"] == ["10 views", "encoder"] and rows["coop"]["trains"]
    assert rows["clip_lora"]["needs"] == ["encoder", "images"]
    assert rows["zero_shot"]["needs"] == []


def test_a_new_method_is_short_passes_the_contract_and_runs(
    home: Path, harness_command: Command, make_pack: Any
) -> None:
    code, out, _ = harness_command("methods", "new", "My-Adapter")
    path = home / "my_adapter.py"
    assert code == 0 and "harness methods test my_adapter.py" in out
    assert len(path.read_text().splitlines()) <= 33
    assert harness_command("methods", "test", "my_adapter.py")[0] == 0
    make_pack()
    code, out, _ = harness_command("run", "--methods", "my_adapter.py", *TOY)
    assert code == 0 and "my_adapter" in out
    code, _, err = harness_command("methods", "new", "my_adapter")
    assert code == 2 and "left as it is" in err


@pytest.mark.parametrize(
    ("name", "said"), [("tip", "exists already"), ("2fast", "no name"), ("class", "no name"), ("../up", "no name")]
)
def test_a_bad_name_for_a_new_method_is_refused(harness_command: Command, home: Path, name: str, said: str) -> None:
    code, _, err = harness_command("methods", "new", name)
    assert (code, said in err) == (2, True)
    assert not list(home.parent.rglob("*.py"))


def test_methods_test_tells_what_is_wrong(home: Path, harness_command: Command) -> None:
    assert harness_command("methods", "test", "zero_shot")[0] == 0
    (home / "bad.py").write_text(
        "from harness import Method\nclass Bad(Method):\n    def fit(self, e):\n        self.w = e.text.weight\n        return self\n"
        "    def logits(self, x):\n        return (x - x.mean(0)) @ self.w.T\n"
    )
    code, out, err = harness_command("methods", "test", "./bad.py")
    assert code == 1
    assert "FAIL" in out
    assert "checks passed" in err
    findings = json.loads(harness_command("methods", "test", "./bad.py", "--json")[1])
    assert any(not finding["ok"] and "row" in finding["name"] + finding["message"] for finding in findings)


def pictures(folder: Path) -> Path:
    """Three classes of plain colours, 12 images each."""
    for name, colour in {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}.items():
        (folder / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (40, 40), tuple(min(255, value + 4 * i) for value in colour)).save(
                folder / name / f"{i}.png"
            )
    return folder


def test_methods_through_the_encoder_run_on_images(home: Path, harness_command: Command) -> None:
    """Pixels reach them behind the lock: their own shots while they fit, others only through the runner."""
    harness_command("data", "add", pictures(home / "pics"), "--name", "colours", "--templates", "something {}.")
    chosen = (
        "coop[epochs=1]",
        "clip_lora[steps=1,batch=4]",
        "wise_ft[steps=1,batch=4]",
        "prolip[epochs=1]",
        "zero_shot",
    )
    only = ("--datasets", "colours", "--encoder", "demo", "--shots", "2", "--seeds", "1")
    code, out, err = harness_command("run", "--methods", ",".join(chosen), *only, "--json")
    records = {record["method"]: record for record in json.loads(out)["records"]}
    assert code == 0, err
    assert {record["status"] for record in records.values()} == {"ok"} and len(records) == 5
    stored = {result.identity.method: result for result in harness.load().results}
    assert stored["clip_lora"].trained_parameters == 7680 and stored["clip_lora"].configurations_tried == 1
    assert stored["wise_ft"].configurations_tried == 11 and stored["wise_ft"].labels_for_selection == 6
    assert stored["zero_shot"].test is not None and stored["clip_lora"].test is not None
    assert stored["zero_shot"].test.total == stored["clip_lora"].test.total


@pytest.mark.parametrize(("own", "ending"), [(True, 0), (False, 1)])
def test_a_method_opens_its_own_shots_and_no_other_image(
    home: Path, harness_command: Command, own: bool, ending: int
) -> None:
    harness_command("data", "add", pictures(home / "pics"), "--name", "colours")
    (home / "greedy.py").write_text(
        "from pathlib import Path\nfrom harness import Method\nclass Greedy(Method):\n    trains_encoder = True\n"
        "    def fit(self, e):\n        self.w = e.text.weight\n        shots = {str(p) for p in e.images.paths}\n"
        f"        for c in ('red', 'green', 'blue'):\n            for i in range(12):\n"
        f"                path = Path({str(home / 'pics')!r}, c, f'{{i}}.png')\n"
        f"                if (str(path) in shots) == {own}:\n                    path.read_bytes()\n"
        "        return self\n    def logits(self, x):\n        return x @ self.w.T\n"
    )
    only = ("--datasets", "colours", "--encoder", "demo", "--shots", "2", "--seeds", "1")
    code, out, _ = harness_command("run", "--methods", "./greedy.py", *only, "--json")
    assert code == ending
    assert ("reached for held-out data" in str(json.loads(out)["records"][0]["error"])) == (not own)


def test_a_folder_of_images_runs_like_any_data_set(home: Path, harness_command: Command) -> None:
    code, out, _ = harness_command(
        "data", "add", pictures(home / "pics"), "--name", "colours", "--templates", "something {}."
    )
    assert code == 0
    assert "3 classes" in out
    assert "harness run --datasets colours" in out
    before = sorted((home / "pics").rglob("*"))
    code, out, err = harness_command("run", "--datasets", "colours", "--methods", "ncm", "--encoder", "demo", "--json")
    document = json.loads(out)
    assert code == 0, err
    assert {record["accuracy"] for record in document["records"]} == {100.0}
    assert {record["shots"] for record in document["records"]} == {4}  # the most that 6 images a class allow
    assert sorted((home / "pics").rglob("*")) == before
    drawn = json.loads(harness_command("data", "shots", "colours", "--shots", 2, "--seed", 3, "--json")[1])
    assert [len(drawn["train"]), len(drawn["val"]), len(drawn["sha256"])] == [6, 6, 64]
    assert {row["name"] for row in json.loads(harness_command("data", "list", "--json")[1])} >= {
        "colours",
        "demo_digits",
    }
    code, _, err = harness_command("run", "--datasets", "colours", "--shots", 16, "--encoder", "demo")
    assert (code, "--shots 6" in err) == (2, True)


def test_without_a_hub_own_images_fall_back_to_the_shipped_encoder_and_say_so(
    home: Path, harness_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness import encoder
    from harness.errors import Missing

    asked = []

    def unreachable(name: str, *args: Any) -> Any:
        asked.append(name)
        raise Missing(f"{name} is not here")

    monkeypatch.setattr(encoder, "identify", unreachable)
    harness_command("data", "add", pictures(home / "pics"), "--name", "colours")
    code, _, err = harness_command("run", "--datasets", "colours", "--methods", "zero_shot", "--dry-run")
    assert code == 0
    assert asked == ["ViT-B-16-quickgelu:openai"]
    assert "cannot be had here" in err
    assert "--encoder" in err


def test_a_damaged_cache_entry_is_set_aside_and_built_again(home: Path, harness_command: Command) -> None:
    harness_command("data", "add", pictures(home / "pics"), "--name", "colours")
    words = ("run", "--datasets", "colours", "--methods", "tip", "--encoder", "demo", "--seeds", 1, "--json")
    first = json.loads(harness_command(*words)[1])["records"]
    from harness import cache

    for folder in cache.cached_packs():
        for path in folder.glob("*.safetensors"):
            path.write_bytes(path.read_bytes()[:-7])
    assert harness_command("features", "verify")[0] == 6
    code, out, err = harness_command(*words, "--force")
    assert code == 0
    assert err.count("damaged cache entry") == 3
    assert [record["accuracy"] for record in json.loads(out)["records"]] == [record["accuracy"] for record in first]
    assert harness_command("features", "verify")[0] == 0


def test_features_travel_from_images_to_a_pack_and_back(home: Path, harness_command: Command) -> None:
    harness_command("data", "add", pictures(home / "pics"), "--name", "colours")
    code, _, err = harness_command(
        "features", "export", "colours", home / "out", "--shots", 4, "--seed", 2, "--encoder", "demo"
    )
    assert code == 0, err
    code, out, _ = harness_command("features", "import", home / "out", "--name", "copied")
    assert (code, "harness run --datasets copied" in out) == (0, True)
    words = ("--methods", "tip", "--shots", 4, "--seeds", 2, "--json", "--selection", "none")
    ours = json.loads(harness_command("run", "--datasets", "colours", "--encoder", "demo", *words)[1])["records"][0]
    theirs = json.loads(harness_command("run", "--datasets", "copied", *words)[1])["records"][0]
    assert ours["accuracy"] == theirs["accuracy"]
    listed = json.loads(harness_command("features", "list", "--json")[1])
    assert {"imported", "cache"} == {row["kind"] for row in listed}
    assert "copied" in harness_command("features", "list")[1]


def test_doctor_looks_at_everything_and_names_what_is_wrong(make_pack: MakePack, harness_command: Command) -> None:
    folder = make_pack()
    harness_command("run", "--methods", "zero_shot", *TOY)
    findings = {row["name"]: row for row in json.loads(harness_command("doctor", "--json")[1])}
    assert {
        "versions",
        "processor",
        "gpu",
        "cache",
        "data",
        "methods",
        "data sets",
        "encoder",
        "features",
        "store",
    } <= set(findings)
    assert findings["store"]["message"].endswith("2 records")
    next(Path("results/cells").iterdir()).write_text("not a record")
    (folder / "pack.json").write_text("{")
    code, out, _ = harness_command("doctor")
    assert code == 1
    assert out.count("LOOK") >= 2
    assert "pack.json" in out


def test_what_a_method_prints_does_not_spoil_json(home: Path, make_pack: MakePack, harness_command: Command) -> None:
    make_pack()
    (home / "loud.py").write_text(
        "from harness import Method\nprint('importing')\nclass L(Method):\n    def fit(self, e):\n        print('epoch 1')\n"
        "        self.w = e.text.weight\n        return self\n    def logits(self, x):\n        return x @ self.w.T\n"
    )
    for words in (["run", "--methods", "./loud.py", *TOY], ["methods", "test", "./loud.py"]):
        code, out, err = harness_command(*words, "--json")
        json.loads(out)
        assert code == 0
        assert "epoch 1" in err


def test_data_list_tells_what_is_here_and_what_is_missing(home: Path, harness_command: Command) -> None:
    rows = {row["name"]: row for row in json.loads(harness_command("data", "list", "--json")[1])}
    assert rows["demo_digits"]["state"] == "ready"
    assert rows["dtd"]["state"] == "missing"
    assert rows["dtd"]["download_bytes"] > 6e8
    assert rows["imagenet"]["by_hand"]
    text = harness_command("data", "list")[1]
    assert "dtd-r1.0.1.tar.gz" in text
    code, _, err = harness_command("data", "verify")
    assert (code, "0 of 0" in err) == (0, True)


def test_a_suite_without_results_is_told_and_not_shown_empty(make_pack: MakePack, harness_command: Command) -> None:
    make_pack()
    harness_command("run", "--methods", "zero_shot", *TOY)
    assert harness_command("table", "--datasets", "demo")[0] == 5


def test_folders_that_cannot_be_made_are_told_in_one_line(
    home: Path, harness_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HARNESS_CACHE", "HARNESS_DATA"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "/proc/nowhere")
            code, _, err = harness_command("run", "--datasets", "demo_digits", "--methods", "zero_shot", "--shots", 1)
            assert code == 8, err
            assert "/proc/nowhere" in err
