"""GDA, and the Gaussian classifier that others share, give what their formulas give in plain float64."""

import math
import time
from dataclasses import replace

import pytest
import torch

from harness.contract import example_episode, example_queries
from harness.errors import UsageError
from harness.types import Features, Method
from methods import _gauss
from methods.gda import Gda
from methods.lda import Lda
from methods.zero_shot import ZeroShot


def close(found, expected):
    """Equal to six published decimals."""
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=0)


def doubled(episode):
    """The same problem in float64."""
    support, text = episode.support, episode.text
    views = None if support.views is None else support.views.double()
    return replace(
        episode,
        support=Features(support.image.double(), support.label, views),
        text=replace(text, weight=text.weight.double(), prompts=text.prompts.double()),
    )


def plain_gda(episode):
    """W (D, C), b (C,) row by row: class means, covariance, pseudo-inverse."""
    support, classes = episode.support, len(episode.text.classes)
    stack = support.image[None] if support.views is None else support.views
    rows = torch.stack([row / row.norm() for row in stack.flatten(0, 1)])
    label = support.label.repeat(len(stack))
    mu = torch.stack([rows[label == c].mean(0) for c in range(classes)])
    z = rows - mu[label]
    n, width = len(rows), rows.shape[1]
    sigma = sum(torch.outer(row, row) for row in z) / (n - 1)
    p = width * torch.linalg.pinv((n - 1) * sigma + sigma.trace() * torch.eye(width).to(rows))
    return p @ mu.T, torch.stack([math.log(1 / classes) - mu[c] @ p @ mu[c] / 2 for c in range(classes)])


def test_it_gives_the_published_example(golden):
    episode, query = golden
    method = Gda(alpha=1.0).fit(episode)
    close(method.bias, [-3.812066, -1.458116, -3.193267])
    close(method.weight[0], [6.099160, 0.991765, -0.865398, 0.958838])
    close(method.parts(query)[1][0], [-2.470470, -1.867799, -3.638839])
    # Published as 10.961061 for class 2, but the parts published beside it, 14.599449 - 3.638839, make 10.960610.
    close(method.logits(query)[0], [50.704214, -80.936016, 10.960610])


@pytest.mark.parametrize("counts, views", [((3, 3, 3), 0), ((1, 4, 2, 3), 3), ((1, 1), 2)])
def test_it_is_the_plain_formula_in_double_precision(counts, views):
    episode = doubled(example_episode(counts, dim=24, views=views, raw=True))
    if not views:
        episode = replace(
            episode, support=replace(episode.support, image=torch.nn.functional.normalize(episode.support.image))
        )
    method, (weight, bias) = Gda().fit(episode), plain_gda(episode)
    torch.testing.assert_close(method.weight, weight.T, rtol=1e-6, atol=1e-9 * float(weight.abs().max()))
    torch.testing.assert_close(method.bias, bias, rtol=1e-6, atol=1e-9)


def test_single_precision_stays_near_double():
    episode = example_episode((4,) * 5, dim=48, views=3, raw=True)
    single, double = Gda().fit(episode), Gda().fit(doubled(episode))
    torch.testing.assert_close(
        single.weight.double(), double.weight, rtol=1e-4, atol=1e-4 * float(double.weight.abs().max())
    )


def test_without_spread_it_is_zero_shot():
    episode = example_episode((1, 1, 1), raw=True)
    image, _ = example_queries(episode, raw=True)
    method = Gda(alpha=100.0).fit(episode)
    zero_shot = ZeroShot().fit(episode).logits(image)
    assert not method.weight.any()
    torch.testing.assert_close(method.logits(image) - zero_shot, torch.full_like(zero_shot, 100 * math.log(1 / 3)))
    assert torch.equal(method.logits(image).argmax(1), zero_shot.argmax(1))


def test_equal_views_are_no_spread():
    episode = example_episode((1, 1, 1), views=3, raw=True)
    same = episode.support.views[:1].expand(3, -1, -1) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    assert not Gda().fit(replace(episode, support=replace(episode.support, views=same))).weight.any()


def test_with_a_weight_near_zero_it_is_zero_shot():
    episode = example_episode(raw=True)
    image, _ = example_queries(episode, raw=True)
    torch.testing.assert_close(Gda(alpha=0.0).fit(episode).logits(image), ZeroShot().fit(episode).logits(image))


def test_the_shared_covariance_is_positive_definite():
    episode = example_episode((2, 2), dim=200)  # far fewer rows than dimensions
    counts = (2, 2)
    of = _gauss.moments(episode.support.image[None], counts)
    scatter = of.scatter
    assert of.has_spread()
    torch.testing.assert_close(scatter, scatter.T)
    ridge = scatter + scatter.trace() / (of.rows - 1) * torch.eye(200)
    assert torch.linalg.eigvalsh(ridge).min() > 0


@pytest.mark.parametrize("counts", [(4, 4, 4), (5, 1, 6)])
def test_moments_are_those_of_all_views_about_their_class_means(monkeypatch, counts):
    """However the symmetric product is cut into strips, and far from the origin too."""
    monkeypatch.setattr(_gauss, "ROWS", 5)
    monkeypatch.setattr(_gauss, "COLUMNS", 3)
    draws = torch.Generator().manual_seed(0)
    images = 10 + torch.randn(3, sum(counts), 8, generator=draws)  # (V, N, D)
    of = _gauss.moments(images, counts)
    rows = images.double().transpose(0, 1)  # (N, V, D)
    classes = [part.flatten(0, 1) for part in torch.split(rows, counts)]
    torch.testing.assert_close(of.mean, torch.stack([part.mean(0) for part in classes]), atol=1e-6, rtol=0)
    scatter = sum((part - part.mean(0)).T @ (part - part.mean(0)) for part in classes)
    torch.testing.assert_close(of.scatter, scatter, atol=1e-4, rtol=0)
    assert of.count.tolist() == [3 * many for many in counts]


def test_the_search_counts_what_scoring_counts():
    episode = example_episode((3, 2, 4), raw=True, views=2)
    method, (image, label) = Gda().fit(episode), example_queries(episode, raw=True)
    assert torch.equal(method.sweep(image, label), Method.sweep(method, image, label))


def test_it_is_faster_than_the_pseudo_inverse():
    episode = example_episode((4,) * 10, dim=384, views=3, raw=True)
    Gda().fit(episode)
    start = time.process_time()
    Gda().fit(episode)
    fast = time.process_time() - start
    rows = torch.nn.functional.normalize(episode.support.views.flatten(0, 1), dim=1)
    start = time.process_time()
    sigma = rows.T.cov()
    torch.linalg.pinv((len(rows) - 1) * sigma + sigma.trace() * torch.eye(384))
    assert time.process_time() - start > 2 * fast


# -- shrunk LDA ------------------------------------------------------------------------------------------


def test_it_is_the_plain_formula_with_ledoit_and_wolfs_shrinkage():
    episode = doubled(example_episode((5, 3, 4), dim=20))
    support = episode.support
    rows = support.image / support.image.norm(dim=1, keepdim=True)
    mean = torch.stack([rows[support.label == c].mean(0) for c in range(3)])
    centred = rows - mean[support.label]
    s = sum(torch.outer(z, z) for z in centred) / 12
    target = s.trace() / 20 * torch.eye(20).to(s)
    noise = sum((torch.outer(z, z) - s).square().sum() for z in centred) / 12**2
    rho = min(1.0, float(noise / (s - target).square().sum()))
    assert 0 < rho < 1
    method = Lda().fit(episode)
    assert method.facts()["shrinkage"] == pytest.approx(rho, rel=1e-6)
    weight = torch.linalg.solve((1 - rho) * s + rho * target, mean.T).T
    torch.testing.assert_close(method.weight, weight, rtol=1e-6, atol=1e-9 * float(weight.abs().max()))
    bias = math.log(1 / 3) - (weight * mean).sum(1) / 2
    torch.testing.assert_close(method.bias, bias, rtol=1e-6, atol=1e-9)


def test_at_one_shot_without_views_the_nearest_class_mean_wins():
    episode = example_episode((1, 1, 1, 1))
    image, _ = example_queries(episode)
    scores = Lda().fit(episode).logits(image)
    assert torch.equal(scores.argmax(1), torch.cdist(image, episode.support.image).argmin(1))


def test_full_shrinkage_is_the_nearest_class_mean():
    episode = example_episode((3, 3, 3))
    image, _ = example_queries(episode)
    mean = torch.stack([episode.support.image[episode.support.label == c].mean(0) for c in range(3)])
    assert torch.equal(Lda(shrinkage=1.0).fit(episode).logits(image).argmax(1), torch.cdist(image, mean).argmin(1))


@pytest.mark.parametrize("shrinkage", [0.0, 1.5])
def test_shrinkage_out_of_range_is_refused(shrinkage):
    with pytest.raises(UsageError, match="above 0, at most 1"):
        Lda(shrinkage=shrinkage).fit(example_episode((2, 2)))


def test_moments_of_two_sets_add_up():
    episode = doubled(example_episode((2, 3), dim=8))
    image = episode.support.image
    one, other = _gauss.moments(image[None], (2, 3)), _gauss.moments(2 * image[None], (2, 3))
    order = torch.cat([torch.arange(2), torch.arange(5, 7), torch.arange(2, 5), torch.arange(7, 10)])
    both = _gauss.moments(torch.cat([image, 2 * image])[order][None], (4, 6))
    for found, expected in zip(vars(one + other).values(), vars(both).values(), strict=True):
        torch.testing.assert_close(found, expected)
