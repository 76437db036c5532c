"""TIMO weighs prompts by images and lets them join as its formulas say; its search counts what scoring counts."""

from dataclasses import replace

import pytest
import torch

from harness.contract import example_episode, example_queries
from harness.types import Features, Method
from methods import _gauss
from methods.gda import Gda
from methods.timo import Timo
from methods.timo_s import TimoS


def close(found, expected):
    """Equal to six published decimals."""
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=0)


def with_prompts(episode, count):
    """The same problem with `count` prompts per class."""
    generator = torch.Generator().manual_seed(5)
    text = episode.text
    prompts = (
        text.weight[:, None] + 0.3 * torch.randn(len(text.weight), count, text.weight.shape[1], generator=generator) / 8
    )
    return replace(episode, text=type(text).from_prompts(text.classes, prompts.to(text.weight), text.scale))


def test_it_gives_the_published_example(golden):
    episode, _ = golden
    text = episode.text.weight
    turned = text + 0.3 * text.roll(1, 1)
    prompts = torch.stack([text, turned / turned.norm(dim=1, keepdim=True)], 1)
    method = Timo(gamma=50.0).fit(replace(episode, text=replace(episode.text, prompts=prompts)))
    close(method.fit_to_image[0], [0.835314, 0.761692])
    fit = method.fit_to_image[0] / method.fit_to_image[0].norm()
    close((50 * fit).softmax(0), [0.962899, 0.037101])
    close(method.guided_text()[0], [0.859394, 0.049640, -0.233124, -0.452361])


def test_with_one_prompt_the_text_is_the_text():
    episode = with_prompts(example_episode((3, 3, 3), raw=True), 1)
    torch.testing.assert_close(Timo().fit(episode).guided_text(), episode.text.weight)


def plain_score(episode, image, alpha, gamma, beta):
    """Prompts join as labelled rows of GDA, one by one."""
    support, classes = episode.support, len(episode.text.classes)
    rows = list(support.image / support.image.norm(dim=1, keepdim=True))
    label = support.label.tolist()
    text = []
    for c in range(classes):
        mean = torch.stack([row for row, own in zip(rows, label, strict=False) if own == c]).mean(0)
        s = episode.text.prompts[c] @ (mean / mean.norm())
        weight = (gamma * s / s.norm()).softmax(0)
        merged = sum(w * prompt for w, prompt in zip(weight, episode.text.prompts[c], strict=True))
        text.append(merged / merged.norm())
        twice = 2 * sorted(range(len(s)), key=lambda p: -float(s[p]))
        rows += [s[p] * episode.text.prompts[c, p] for p in twice[:beta]]
        label += [c] * beta
    rows, label = torch.stack(rows), torch.tensor(label)
    mu = torch.stack([rows[label == c].mean(0) for c in range(classes)])
    z, n, width = rows - mu[label], len(rows), rows.shape[1]
    sigma = z.T @ z / (n - 1)
    p = width * torch.linalg.pinv((n - 1) * sigma + sigma.trace() * torch.eye(width).to(rows))
    bias = torch.stack([-torch.tensor(float(classes)).log() - m @ p @ m / 2 for m in mu])
    query = image / image.norm(dim=1, keepdim=True)
    return alpha * query @ torch.stack(text).T + query @ p @ mu.T + bias


@pytest.mark.parametrize("beta", [1, 3, 5, 8])
def test_it_is_the_plain_formula_in_double_precision(beta):
    episode = with_prompts(example_episode((3, 1, 2), dim=16), 4)
    support, text = episode.support, episode.text
    episode = replace(
        episode,
        support=Features(support.image.double(), support.label),
        text=replace(text, prompts=text.prompts.double(), weight=text.weight.double()),
    )
    image = example_queries(episode)[0].double()
    found = Timo(alpha=10.0, gamma=20.0, beta=beta).fit(episode).logits(image)
    torch.testing.assert_close(found, plain_score(episode, image, 10.0, 20.0, beta), rtol=1e-6, atol=1e-6)


def test_prompts_of_weight_zero_still_count_as_rows():
    episode = example_episode((2, 2), dim=16, raw=True)
    support = episode.support
    across = torch.linalg.svd(support.image)[2][-1]  # at a right angle to every image
    prompts = across.expand(2, 1, 16)
    method = Timo(beta=1).fit(replace(episode, text=replace(episode.text, prompts=prompts)))
    rows = torch.cat([support.image / support.image.norm(dim=1, keepdim=True), torch.zeros(2, 16)])
    order = torch.cat([support.label, torch.tensor([0, 1])]).argsort(stable=True)
    weight, _ = _gauss.ridge_classifier(_gauss.moments(rows[order][None], (3, 3)))
    torch.testing.assert_close(method.solved[1][0].double(), weight, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(method.solved[1][0], Gda().fit(episode).weight, rtol=1e-2)


def test_gamma_is_the_references_for_the_data_set():
    episode = example_episode((2, 2), raw=True)
    for dataset, gamma in {"imagenet": 1, "flowers102": 100, "dtd": 50}.items():
        method, same = Timo().fit(replace(episode, dataset=dataset)), Timo(gamma=gamma).fit(episode)
        assert torch.equal(method.guided_text(), same.guided_text())


def test_the_searches_count_what_scoring_counts():
    episode = with_prompts(example_episode((3, 1, 2), raw=True, views=2), 5)
    image, label = example_queries(episode, raw=True)
    for method in (Timo(), TimoS()):
        method.fit(episode)
        assert torch.equal(method.sweep(image, label), Method.sweep(method, image, label))


def test_timo_s_searches_ten_betas_up_to_twice_the_prompts_each_once():
    episode = example_episode((2, 2), raw=True)
    assert TimoS().fit(with_prompts(episode, 20)).logit_grid["beta"] == (1, 5, 9, 14, 18, 22, 27, 31, 35, 40)
    assert TimoS().fit(with_prompts(episode, 1)).logit_grid["beta"] == (1, 2)
    pinned = TimoS(beta=3)
    pinned.logit_grid = {"gamma": (5.0, 50.0), "alpha": (1.0,)}
    image, label = example_queries(episode, raw=True)
    assert pinned.fit(with_prompts(episode, 4)).sweep(image, label).shape == (2, 1)
