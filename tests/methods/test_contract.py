"""Every method of the folder keeps the contract, and says where it comes from."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import methods
from harness.contract import check, example_episode
from harness.types import Method

NAMES = sorted(path.stem for path in Path(methods.__path__[0]).glob("*.py") if not path.stem.startswith("_"))


def of_file(name: str) -> type[Method]:
    module = importlib.import_module(f"methods.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
    )
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_method_keeps_the_contract(name):
    broken = [finding for finding in check(of_file(name)) if not finding.ok]
    assert not broken


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_where_it_comes_from(name):
    method = of_file(name)
    assert method.title and method.paper and method.year
    assert "Cost" in (method.__doc__ or "") or "cost" in (method.__doc__ or "")


@pytest.mark.parametrize("name", NAMES)
def test_the_formula_of_trained_parameters_holds(name):
    """Where it is written in the sizes of the problem; methods through the encoder count in a test of their own."""
    method = of_file(name)
    if method.trains_encoder or not set(re.findall(r"[A-Za-z']+", method.parameters)) <= set("NKCD"):
        pytest.skip(f"{method.parameters} holds sizes that are the method's own")
    for counts, dim in (((3, 3, 3, 3), 32), ((2, 2, 2), 48)):
        wanted = {"views": min(method.views, 2), "raw": method.raw, "second_space": bool(method.second_space)}
        fitted = method(**method.quick).fit(example_episode(counts, dim=dim, **wanted))
        sizes = {"N": sum(counts), "K": counts[0], "C": len(counts), "D": dim}
        assert fitted.trained_parameters() == eval(method.parameters, {}, sizes)
