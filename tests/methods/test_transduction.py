"""TransCLIP and StatA against slow versions of their formulas; what they may depend on, and what not."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from harness.contract import example_episode, example_queries
from harness.errors import UsageError
from harness.types import Features, Method
from methods import _transduction
from methods.stata import StatA
from methods.transclip import TransClip


def doubled(episode):
    support, text = episode.support, episode.text
    return replace(
        episode,
        support=Features(functional.normalize(support.image.double()), support.label),
        text=replace(text, weight=functional.normalize(text.weight.double()), prompts=text.prompts.double()),
    )


def problem(counts=(3, 1, 2), dim=12, each=5):
    episode = doubled(example_episode(counts, dim=dim))
    return episode, functional.normalize(example_queries(episode, each=each)[0].double())


def plain_graph(rows, query, own=None):
    """W (R, M): cosines of the three nearest queries; `own` drops each row's own column, else its best one is dropped."""
    cosine = rows @ query.T
    w = torch.zeros_like(cosine)
    for r in range(len(rows)):
        order = cosine[r].argsort(descending=True).tolist()
        kept = order[1:4] if own is None else [j for j in order if own(r) != j][:3]
        w[r, kept] = cosine[r, kept]
    return w


def plain_labels(log_y, lam, likelihood, w, z, y):
    """Five sweeps with the sums written out: queries pull each other both ways, support images one way."""
    queries = len(z)
    for _ in range(5):
        every = torch.cat([z, y])
        pulled = w.T @ every + (w @ z)[:queries]
        z = (lam * log_y + (likelihood + 50 / 6 * pulled) / 50).softmax(1)
    return z


def plain_transclip(episode, query, gamma, order):
    support, text = episode.support, episode.text.weight
    y = functional.one_hot(support.label, len(text)).double()
    if order == "reference":
        w = plain_graph(torch.cat([support.image, query]), query)
    else:
        queries = len(query)
        w = plain_graph(torch.cat([query, support.image]), query, own=lambda r: r if r < queries else -1)
    log_y = (episode.text.scale * query @ text.T).log_softmax(1)
    z, mu = log_y.exp(), functional.normalize(y.T @ support.image)
    sigma = torch.full((query.shape[1],), 1 / query.shape[1], dtype=torch.float64)
    share, own = 1 / len(query), 50 * gamma / len(support)
    for done in range(11):
        likelihood = -((query[:, None] - mu) ** 2 / sigma).sum(2) / 2
        z = plain_labels(log_y, 0.5, likelihood, w, z, y)
        if done == 10:
            return z
        mu = functional.normalize(share * z.T @ query + own * y.T @ support.image)
        total = share * z.sum() + own * y.sum()
        far = share * (z[..., None] * (query[:, None] - mu) ** 2).sum((0, 1))
        sigma = (far + own * (y[..., None] * (support.image[:, None] - mu) ** 2).sum((0, 1))) / total


def plain_stata(episode, query, log_det):
    text = episode.text.weight
    queries = len(query)
    w = plain_graph(query, query, own=lambda r: r)
    log_y = (episode.text.scale * query @ text.T).log_softmax(1)
    z, mu = log_y.exp(), text
    first = (z[..., None] * (query[:, None] - text) ** 2).sum((0, 1)) / queries
    sigma = first.expand_as(text)
    for done in range(11):
        likelihood = -((query[:, None] - mu) ** 2 / sigma).sum(2) / 2 - log_det * sigma.log().sum(1) / 2
        z = plain_labels(log_y, 1.0, likelihood, w, z, z[:0])
        if done == 10:
            return z
        count = torch.tensor([float((z.argmax(1) == c).sum()) for c in range(len(text))]).double()
        beta = (count / (1 + count))[:, None]
        mu = functional.normalize(beta * functional.normalize(z.T @ query) + (1 - beta) * text)
        spread = (z[..., None] * (query[:, None] - mu) ** 2).sum(0) / z.sum(0)[:, None]
        sigma = beta * spread + (1 - beta) * (first + (text - mu) ** 2)


def test_transclip_gives_the_published_example(golden):
    episode, query = golden
    method = TransClip(gamma=0.02, order="reference").fit(episode)
    expected = torch.tensor([-2.838232, -4.675172, -3.082509], dtype=torch.float64)
    found = _transduction.log_likelihood(query, *method._start())[0]
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    assert method.logits(query).argmax(1).tolist() == [0, 2, 1, 0, 2]


@pytest.mark.parametrize("order", ["aligned", "reference"])
@pytest.mark.parametrize("gamma", [0.002, 0.2])
def test_transclip_is_the_plain_formula_in_double_precision(order, gamma):
    episode, query = problem()
    found = TransClip(gamma=gamma, order=order).fit(episode).logits(query).exp()
    torch.testing.assert_close(found, plain_transclip(episode, query, gamma, order), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("order", ["aligned", "reference"])
def test_transclip_labels_a_lone_query_by_what_is_left_of_the_formula(order):
    """No other query says anything of it: in the reference's order nothing but text and Gaussians is left."""
    episode, query = problem()
    found = TransClip(gamma=0.02, order=order).fit(episode).logits(query[:1]).exp()
    torch.testing.assert_close(found, plain_transclip(episode, query[:1], 0.02, order), rtol=1e-6, atol=1e-9)


def test_the_search_counts_what_scoring_every_gamma_counts():
    episode = example_episode((3, 1, 2), dim=12)
    image, label = example_queries(episode, each=9)
    method = TransClip().fit(episode)
    assert torch.equal(method.sweep(image, label), Method.sweep(method, image, label))
    method.logit_grid = {"lam": [0.2, 0.5], "gamma": [0.02, 0.2]}
    assert torch.equal(method.sweep(image, label), Method.sweep(method, image, label))


@pytest.mark.parametrize("log_det", [True, False])
def test_stata_is_the_plain_formula_in_double_precision(log_det):
    episode, query = problem()
    found = StatA(log_det=log_det).fit(episode).logits(query).exp()
    torch.testing.assert_close(found, plain_stata(episode, query, log_det), rtol=1e-6, atol=1e-9)


def test_a_strong_prior_gives_the_text_and_labels_sum_to_one():
    episode, query = problem()
    log_y = (episode.text.scale * query @ episode.text.weight.T).log_softmax(1)
    strong = TransClip(lam=1e6).fit(episode).logits(query)
    assert torch.equal(strong.argmax(1), log_y.argmax(1))
    z = TransClip().fit(episode).logits(query).exp()
    torch.testing.assert_close(z.sum(1), torch.ones(len(query), dtype=torch.float64))


def test_means_have_unit_length_and_variances_are_positive():
    episode, query = problem()
    method = TransClip().fit(episode)
    flat = torch.zeros(len(query), 3, dtype=torch.float64)
    flat[:, 0] = 1
    query = torch.cat([query[:, :-1], query[:, :1] * 0], 1)  # a channel of zeros
    mean, variance = method._gaussians(query, query.square(), flat)
    torch.testing.assert_close(mean.norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert (variance > 0).all()


@pytest.mark.parametrize("kind", [TransClip, StatA])
@pytest.mark.parametrize("dim", [12, 200])
def test_the_order_of_the_queries_does_not_matter(kind, dim):
    episode, query = problem(dim=dim)
    method = kind().fit(episode)
    order = torch.randperm(len(query), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(method.logits(query[order]), method.logits(query)[order], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", [TransClip, StatA])
@pytest.mark.parametrize("queries", [1, 2, 3])
def test_few_queries_have_few_neighbours(kind, queries):
    episode, query = problem()
    assert kind().fit(episode).logits(query[:queries]).isfinite().all()


def test_equal_queries_are_neighbours_and_no_query_is_its_own():
    _, query = problem()
    same = query[:1].expand(6, -1)
    graph = _transduction.neighbours(same, same[:0], same[:0, :3], 3)
    between = torch.cat([part for _, part in graph.between(torch.eye(6).double())])  # (6, 6)
    assert not between.diagonal().any()
    torch.testing.assert_close(between.sum(), torch.tensor(2 * 6 * 3.0).double())


def test_queries_help_each_other():
    episode = example_episode((2,) * 8, dim=48)
    image, label = example_queries(episode, each=40)
    alone = (image @ episode.text.weight.T).argmax(1) == label
    together = TransClip().fit(episode).logits(image).argmax(1) == label
    assert together.sum() > alone.sum()


def test_an_unknown_order_is_refused():
    with pytest.raises(UsageError, match=r"'mixed'.*aligned, reference"):
        TransClip(order="mixed").fit(example_episode((2, 2)))


@pytest.mark.parametrize("queries, count", [(1, 0), (2, 1), (5, 3), (64, 3), (129, 3), (200, 7)])
def test_nearest_others_are_those_of_all_cosines(queries, count, monkeypatch):
    """By groups, and from half of the cosines, over several blocks whose last ones are not full."""
    monkeypatch.setattr(_transduction, "ROWS", 64)
    monkeypatch.setattr(_transduction, "COLUMNS", 128)
    query = functional.normalize(torch.randn(queries, 12, generator=torch.Generator().manual_seed(0)).double())
    query[queries // 2 :] *= -1  # some have near ones far away in the order
    index, cosine = _transduction.nearest_others(query, count)
    plain = (query @ query.T).fill_diagonal_(-2).topk(count, 1)
    assert torch.equal(index, plain.indices)
    torch.testing.assert_close(cosine, plain.values)


def test_the_graph_by_blocks_of_rows_is_the_whole_one(monkeypatch):
    monkeypatch.setattr(_transduction, "LABELS", 4 * 3)  # 4 rows at a time
    draws = torch.Generator().manual_seed(0)
    query = functional.normalize(torch.randn(11, 5, generator=draws).double())
    graph = _transduction.neighbours(query, query[:0], query[:0, :3], 3)
    w = plain_graph(query, query, own=lambda r: r)
    z, log_prior, log_p = (torch.randn(11, 3, generator=draws).double() for _ in range(3))
    found = torch.cat([part for _, part in graph.between(z)])
    torch.testing.assert_close(found, (w + w.T) @ z)
    z, expected = z.softmax(1), z.softmax(1)
    for _ in range(5):
        expected = (log_prior + (log_p + 50 / 6 * (w + w.T) @ expected) / 50).softmax(1)
    both = [_transduction.soft_labels(log_prior, log_p.clone(), graph, z.clone(), log=log) for log in (False, True)]
    torch.testing.assert_close(both[0], expected)
    torch.testing.assert_close(both[1], expected.log())
