"""Names become methods and data sets; whatever is wrong is told in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import find
from harness.errors import UsageError
from harness.types import Dataset, Method

GOOD = """
from dataclasses import dataclass
from harness import Method

@dataclass
class Mine(Method):
    sharpness: float = 2.0
    logit_grid = {"sharpness": [1.0, 2.0]}

    def fit(self, episode):
        self.weight = episode.text.weight
        return self

    def logits(self, image):
        return self.sharpness * image @ self.weight.T
"""


def plugin(folder: Path, source: str, name: str = "mine.py") -> str:
    path = folder / name
    path.write_text(source)
    return str(path)


@pytest.mark.parametrize("name", find.method_names())
def test_every_file_holds_one_method(name: str) -> None:
    spec = find.method(name)
    assert spec.name == name
    assert issubclass(spec.cls, Method)


@pytest.mark.parametrize("name", find.dataset_names())
def test_every_data_set_is_named_like_its_file(name: str) -> None:
    dataset = find.dataset(name)
    assert isinstance(dataset, Dataset)
    assert dataset.name == name
    assert all("{}" in template for template in dataset.templates)


@pytest.mark.parametrize("suite", find.suites())
def test_every_suite_lists_known_data_sets(suite: str) -> None:
    assert set(find.suites()[suite]) <= set(find.dataset_names())


def test_hyphens_and_capitals_do_not_matter() -> None:
    assert find.method("Zero-Shot").cls is find.method("zero_shot").cls


def test_all_stands_for_every_method_and_repeats_count_once() -> None:
    names = [spec.name for spec in find.methods(["tip", "all", "tip"])]
    assert len(set(names)) == len(names) and {"tip", "dac"} <= set(names)


def test_values_can_be_fixed_by_name() -> None:
    spec = find.method("tip[alpha=1.5, beta=2]")
    assert spec.overrides == {"alpha": 1.5, "beta": 2.0}
    assert [s.overrides for s in find.methods(["tip[alpha=1.5]", "tip"])] == [{"alpha": 1.5}, {}]


@pytest.mark.parametrize(
    ("default", "text", "value"),
    [("None", "3", 3.0), ("True", "false", False), ("2", "3", 3), ("2.0", "3", 3.0), ("'soft'", "hard", "hard")],
)
def test_a_fixed_value_has_the_type_of_the_default(tmp_path: Path, default: str, text: str, value: object) -> None:
    source = GOOD.replace("sharpness: float = 2.0", f"sharpness: object = {default}")
    found = find.method(f"{plugin(tmp_path, source)}[sharpness={text}]").overrides["sharpness"]
    assert (found, type(found)) == (value, type(value))


def test_a_default_of_none_wants_a_number(tmp_path: Path) -> None:
    source = GOOD.replace("sharpness: float = 2.0", "sharpness: float | None = None")
    with pytest.raises(UsageError, match="sharpness takes a float, not 'high'"):
        find.method(f"{plugin(tmp_path, source)}[sharpness=high]")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("tipp", "Did you mean tip"),
        ("tip[gamma=1]", "No hyperparameter of tip named 'gamma'"),
        ("tip[alpha=high]", "alpha takes a float, not 'high'"),
        ("tip[alpha=nan]", "alpha takes a finite number, not 'nan'"),
        ("tip[alpha=-inf]", "alpha takes a finite number, not '-inf'"),
        ("tip[alpha]", "field=value"),
        ("tip[alpha=1", "Cannot read the method"),
        ("nowhere/mine.py", "No method file nowhere/mine.py"),
    ],
)
def test_a_wrong_request_says_what_to_type(asked: str, said: str) -> None:
    with pytest.raises(UsageError, match="(?s)" + said.replace("[", r"\[")) as told:
        find.method(asked)
    assert "\n" not in str(told.value)


def test_a_fixed_value_has_the_type_that_an_optional_field_declares(tmp_path: Path) -> None:
    text = GOOD.replace(
        "sharpness: float = 2.0", "sharpness: float = 2.0\n    steps: int | None = None\n    decay: float | None = None"
    )
    path = plugin(tmp_path, text, "optional.py")
    values = find.method(f"{path}[steps=3,decay=3]").overrides
    assert values == {"steps": 3, "decay": 3.0}
    assert [type(value) for value in values.values()] == [int, float]
    with pytest.raises(UsageError, match=r"steps takes a int, not '3\.5'"):
        find.method(f"{path}[steps=3.5]")


def test_a_file_is_a_method_and_an_edit_is_another_version(tmp_path: Path) -> None:
    first = find.method(plugin(tmp_path, GOOD))
    again = find.method(plugin(tmp_path, GOOD))
    edited = find.method(plugin(tmp_path, GOOD + "\n# better\n"))
    assert first.name == "mine"
    assert again.cls is first.cls
    assert edited.version != first.version


def test_a_forgotten_dataclass_decorator_is_forgiven(tmp_path: Path) -> None:
    spec = find.method(plugin(tmp_path, GOOD.replace("@dataclass\n", "")) + "[sharpness=3]")
    assert spec.overrides == {"sharpness": 3.0}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module_anywhere", "mine.py:1: ModuleNotFoundError"),
        ("def broken(:", "mine.py:1: SyntaxError"),
        ("x = 1", "expected one subclass of harness.Method, found none"),
        (GOOD + GOOD.replace("Mine", "Other"), "found Mine, Other"),
        (GOOD.replace("def logits", "def logit"), "Mine must define logits"),
        (GOOD.replace("sharpness: float = 2.0", "sharpness: float"), "needs a default"),
        (GOOD.replace('{"sharpness"', '{"sharp"'), "logit_grid names 'sharp', which is no field"),
        (GOOD.replace("[1.0, 2.0]", "[]"), "must list at least one value"),
        (GOOD.replace('{"sharpness": [1.0, 2.0]}', "[1.0]"), "logit_grid must be a dict"),
    ],
)
def test_a_broken_plugin_is_told_in_one_line(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(UsageError) as told:
        find.method(plugin(tmp_path, source))
    assert said in str(told.value)
    assert "mine.py" in str(told.value)
    assert "\n" not in str(told.value).strip()


@pytest.mark.parametrize("name", ["tip.py", "tip-f.py", "Tip_F.py"])
def test_a_plugin_cannot_take_the_name_of_a_method(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="exists already"):
        find.method(plugin(tmp_path, GOOD, name))


def test_a_plugin_is_called_as_its_file_is(tmp_path: Path) -> None:
    assert find.method(plugin(tmp_path, GOOD, "My-Own.py")).name == "My-Own"


def test_two_files_of_one_name_are_both_named_and_one_file_counts_once(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    one, same, other = (plugin(folder, GOOD + "#" * (folder.name == "c")) for folder in folders)
    assert len(find.methods([one, same, one])) == 1
    assert len(find.methods([one, f"{same}[sharpness=3]"])) == 2
    for second in (other, f"{other}[sharpness=3]"):
        with pytest.raises(UsageError) as told:
            find.methods([one, second])
        assert f"{one} and {second} would both be 'mine' in tables" in str(told.value)


def test_a_plugin_that_exits_or_is_interrupted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mine\.py:1: SystemExit: 0"):
        find.method(plugin(tmp_path, "raise SystemExit(0)"))
    with pytest.raises(KeyboardInterrupt):
        find.method(plugin(tmp_path, "raise KeyboardInterrupt"))


def test_what_a_plugin_prints_is_not_taken_for_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    find.method(plugin(tmp_path, GOOD + "\nprint('hello from a file')"))
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello from a file\n")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Install a package whose entry point of the given name is made by the given source."""

    def install(name: str, source: str) -> None:
        module = f"elsewhere_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / "elsewhere-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[harness.methods]\n{name} = {module}:Mine\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


@pytest.mark.parametrize("name", ["My-Method", "my_method", "MY-METHOD"])
def test_an_installed_method_is_found_however_its_name_is_spelt(installed: Callable[..., None], name: str) -> None:
    installed(name, GOOD)
    assert "my_method" in find.method_names()
    for asked in ("my-method", "My_Method", name):
        spec = find.method(asked)
        assert spec.name == "my_method"
        assert spec.version == "1+1.5"


def test_an_installed_method_does_not_hide_a_built_in(installed: Callable[..., None]) -> None:
    installed("Tip-F", GOOD)
    assert find.method_names().count("tip_f") == 1
    assert find.method("tip-f").cls.__module__ == "methods.tip_f"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("Mine = 3", "is not a subclass of harness.Method"),
        (GOOD.replace("def logits", "def logit"), "Mine must define logits"),
    ],
)
def test_a_broken_installed_method_is_told_in_one_line(installed: Callable[..., None], source: str, said: str) -> None:
    installed("broken-one", source)
    with pytest.raises(UsageError) as told:
        find.method("broken-one")
    assert said in str(told.value)
    assert "elsewhere" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_built_in_that_exits_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaving_methods").mkdir()
    (tmp_path / "leaving_methods" / "tip.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"leaving_methods/tip\.py: SystemExit: 0"):
        find._import("leaving_methods", "tip")


def test_all_stands_for_every_method_but_those_through_the_encoder(tmp_path: Path) -> None:
    found = {spec.name for spec in find.methods(["all"])}
    through = {name for name in find.method_names() if find.method(name).cls.trains_encoder}
    assert {"clip_lora", "coop", "wise_ft"} <= through
    assert found == set(find.method_names()) - through
    assert [spec.name for spec in find.methods(["coop"])] == ["coop"]
    assert find.method(plugin(tmp_path, GOOD + "\n    trains_encoder = True\n", "training.py")).trains_encoder


@pytest.mark.parametrize("name", find.method_names())
def test_what_a_plan_knows_of_a_method_is_what_its_class_says(name: str) -> None:
    spec = find.method(name)
    assert {fact: getattr(spec.cls, fact) for fact in find.FACTS} == {fact: spec.facts[fact] for fact in find.FACTS}
    assert (spec.version, spec.trains_encoder, spec.second_space) == (
        spec.cls.version,
        spec.cls.trains_encoder,
        spec.cls.second_space,
    )


def test_another_methods_package_that_hides_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "__init__.py").touch()
    root = Path(find.__file__).parents[1]
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]\nfrom harness.cli import main\nsys.exit(main(['methods', 'list']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert str(tmp_path / "methods") in done.stderr
    assert str(root / "methods") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_version_is_remembered_until_a_method_changes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = find.method("tip").version
    card = home.parent / "cache" / "methods.json"

    def never(name: str) -> type[Method]:
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr(find, "_built_in", never)
    assert find.method("tip").version == first
    for damage in ("{", "[]", '{"stamp": 1}', card.read_text().replace('"stamp": "', '"stamp": "0')):
        card.write_text(damage)
        with pytest.raises(AssertionError, match="tip was imported"):
            find.method("tip")
