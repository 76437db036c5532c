"""ProKeR solves the system of its paper, searches it exactly, and stays near it where landmarks stand in."""

import time
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from harness.contract import example_episode, example_queries
from harness.types import Features, Method
from methods import _snapshots, proker
from methods.proker import Proker, search_grid


def plain_score(episode, image, beta, lam):
    """The formula with an explicit inverse, in float64, on rows as they are."""
    rows, weight = functional.normalize(episode.support.image.double()), episode.text.weight.double()
    query = functional.normalize(image.double())
    kernel = lambda x, y: torch.exp(-beta * (1 - x @ y.T))  # noqa: E731
    error = functional.one_hot(episode.support.label, len(weight)).double() - rows @ weight.T
    a = torch.linalg.inv(kernel(rows, rows) / lam + torch.eye(len(rows)).double()) @ error
    return query @ weight.T + kernel(query, rows) @ a, error


def doubled(episode):
    support, text = episode.support, episode.text
    return replace(
        episode,
        support=Features(support.image.double(), support.label),
        text=replace(text, weight=text.weight.double(), prompts=text.prompts.double()),
    )


def test_it_gives_the_published_example(golden):
    episode, query = golden
    expected = torch.tensor([0.524342, -0.748684, 0.140562], dtype=torch.float64)
    torch.testing.assert_close(Proker(beta=3.0, lam=0.05).fit(episode).logits(query)[0], expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("beta, lam", [(0.5, 0.001), (3.0, 0.05), (10.0, 10.0)])
def test_it_is_the_plain_formula_in_double_precision(beta, lam):
    episode = doubled(example_episode((3, 1, 4, 2), dim=20))
    image = example_queries(episode)[0].double()
    expected, _ = plain_score(episode, image, beta, lam)
    torch.testing.assert_close(Proker(beta=beta, lam=lam).fit(episode).logits(image), expected, rtol=1e-6, atol=1e-9)


def test_a_small_lambda_is_zero_shot_and_a_large_one_a_vote_of_the_errors():
    episode = doubled(example_episode((3, 3), dim=20))
    image = functional.normalize(example_queries(episode)[0].double())
    cosine = image @ episode.text.weight.T
    torch.testing.assert_close(Proker(beta=2.0, lam=1e-12).fit(episode).logits(image), cosine, atol=1e-9, rtol=0)
    _, error = plain_score(episode, image, 2.0, 1.0)
    vote = torch.exp(-2 * (1 - image @ functional.normalize(episode.support.image).T)) @ error
    found = Proker(beta=2.0, lam=1e9).fit(episode).logits(image)
    torch.testing.assert_close(found, cosine + vote, atol=1e-6, rtol=1e-6)


def test_views_join_as_rows_as_long_as_they_are_few(monkeypatch):
    episode = example_episode((2, 2), views=3, raw=True)
    assert len(Proker().fit(episode).rows) == 12
    monkeypatch.setattr(proker, "MANY_VIEWS", 8)
    assert len(Proker().fit(episode).rows) == 8
    monkeypatch.setattr(proker, "MANY_VIEWS", 7)
    assert len(Proker().fit(episode).rows) == 4


@pytest.mark.parametrize("dataset, lams", [("", 10), ("eurosat", 100)])
def test_the_search_counts_what_scoring_counts(dataset, lams):
    episode = replace(example_episode((3, 1, 2, 4), dim=32, raw=True), dataset=dataset)
    method, (image, label) = Proker().fit(episode), example_queries(episode, each=8, raw=True)
    grid = {"beta": method.logit_grid["beta"][::6], "lam": method.logit_grid["lam"]}
    assert len(grid["lam"]) == lams
    method.logit_grid = grid
    fast, slow = method.sweep(image, label), Method.sweep(method, image, label)
    assert fast.shape == slow.shape and (fast - slow).abs().max() <= 1
    method.logit_grid = {"lam": grid["lam"], "beta": grid["beta"]}
    assert torch.equal(method.sweep(image, label), fast.T)


def test_interpolated_solutions_are_exact_to_eight_digits():
    lam = tuple(search_grid("dtd")["lam"])
    nodes, weights = proker._interpolation(lam)
    assert len(nodes) < 40
    s = torch.rand(200, 1, dtype=torch.float64) * 50
    share = lambda value: torch.tensor(value, dtype=torch.float64) / (s + torch.tensor(value, dtype=torch.float64))  # noqa: E731
    at_nodes, truth = share(nodes), share(lam)
    assert (at_nodes @ weights - truth).abs().max() < 2e-8


@pytest.mark.parametrize("dataset, solved", [("", 50), ("dtd", 100)])
def test_combined_solutions_are_those_of_every_point_of_the_search(dataset, solved, monkeypatch):
    """Scores to about what single precision leaves of them, the same counts but for single images, the same choice."""
    episode = replace(example_episode((30,) * 9, dim=64), dataset=dataset)
    method, (image, label) = Proker().fit(episode), example_queries(episode, each=20)
    beta = list(method.logit_grid["beta"])
    nodes, _ = proker._interpolation(tuple(method.logit_grid["lam"]))
    plain = _snapshots.ridge
    calls = []
    monkeypatch.setattr(_snapshots, "ridge", lambda *given: calls.append(given) or plain(*given))
    found = list(method._solutions(beta, nodes))
    assert len(calls) <= solved
    for i, own in enumerate(beta):
        kernel = torch.exp(-own * (1 - image.double() @ method.rows.T))
        truth = torch.stack([method._system(own).solve(lam) for lam in nodes], -1)
        score, missed = (
            torch.einsum("bz,zcl->bcl", kernel, part).abs().amax((0, 1)) for part in (truth, found[i] - truth)
        )
        assert (missed < 2e-5 * score.clamp(min=1)).all()  # under a millionth but where images are nearly alike
    method.logit_grid = {"beta": beta[::4], "lam": method.logit_grid["lam"]}
    fast, slow = method.sweep(image, label), Method.sweep(method, image, label)
    assert (fast - slow).abs().max() <= 1
    assert fast.flatten().argmax() == slow.flatten().argmax()


def test_where_few_points_do_not_span_the_others_all_are_solved(monkeypatch):
    episode = example_episode((30,) * 9, dim=64)
    method = Proker().fit(episode)
    monkeypatch.setattr(_snapshots, "CLOSE", 0.0)
    (one, other) = method._solutions([0.5, 3.0], [0.01, 1.0])
    assert torch.equal(one[..., 1], method._system(0.5).solve(1.0))
    assert torch.equal(other[..., 0], method._system(3.0).solve(0.01))


def test_landmarks_stay_near_the_dense_solution_and_are_free_of_the_order(monkeypatch):
    episode = example_episode((20,) * 5, dim=16)
    image, _ = example_queries(episode)
    dense = Proker(beta=1.0, lam=0.1).fit(episode).logits(image)
    monkeypatch.setattr(proker, "DENSE", 50)
    monkeypatch.setattr(proker, "LANDMARKS", 60)
    method = Proker(beta=1.0, lam=0.1).fit(episode)
    assert len(method.centres) == 60 and len(method.rows) == 100
    correction = dense - image @ episode.text.weight.T
    assert (method.logits(image) - dense).norm() < 0.2 * correction.norm()
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    support = Features(episode.support.image[order], episode.support.label[order])
    mixed = Proker(beta=1.0, lam=0.1).fit(replace(episode, support=support)).logits(image)
    torch.testing.assert_close(mixed, method.logits(image), atol=1e-5, rtol=1e-4)


def test_with_every_row_a_landmark_it_is_the_dense_solution(monkeypatch):
    episode = doubled(example_episode((4, 4, 4), dim=16))
    image = example_queries(episode)[0].double()
    dense = Proker().fit(episode).logits(image)
    method = Proker().fit(episode)
    spread = torch.eye(len(method.rows)).double()
    system = method._system(1.5)
    root = torch.linalg.cholesky(system.gram + 1e-12 * spread)
    same = proker._System(root.T @ root, root.T @ system.right, root)  # features whose products are the kernel
    torch.testing.assert_close(same.solve(0.1), system.solve(0.1), atol=1e-5, rtol=1e-5)
    assert dense.isfinite().all()


def test_without_a_search_it_takes_what_the_authors_found_for_the_number_of_shots():
    episode = example_episode((2, 2))
    image, _ = example_queries(episode)
    for shots, (beta, lam) in {1: (3.0, 0.05), 3: (2.6, 0.05), 16: (1.7, 0.1), 32: (1.7, 0.1)}.items():
        own = Proker().fit(replace(episode, shots=shots)).logits(image)
        assert torch.equal(own, Proker(beta=beta, lam=lam).fit(episode).logits(image))


def test_the_search_is_faster_than_one_eigendecomposition_per_width():
    episode = example_episode((16,) * 10, dim=64)
    method, (image, label) = Proker().fit(episode), example_queries(episode, each=4)
    method.sweep(image, label)
    start = time.process_time()
    method.sweep(image, label)
    fast = time.process_time() - start
    gram = method._system(1.0).gram
    start = time.process_time()
    torch.linalg.eigh(gram)
    assert fast < 1.5 * 20 * (time.process_time() - start) + 0.05
