"""The LDC head is the network it says, in torch's own modules, and scores each row by itself."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.contract import example_episode, example_queries
from methods import _training
from methods.ldc_head import LdcHead, _start
from methods.zero_shot import ZeroShot


def block(inputs: int, width: int, outputs: int) -> nn.Sequential:
    layers = (
        nn.Linear(inputs, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, outputs, bias=False),
    )
    return nn.Sequential(*layers)


@pytest.mark.parametrize("epochs", [0, 3])
def test_network_and_training_are_those_of_torchs_modules(epochs):
    episode = example_episode((5, 5, 5), dim=8, raw=True, views=2)
    support, text = episode.support, episode.text
    steps = _training.shuffled(15, epochs, 6, episode.seed)  # batches of 6, 6 and 3
    blocks = nn.ModuleList([block(i, 8, o) for i, o in ((3, 8), (8, 8), (8, 3), (8, 3), (8, 1))])
    start, _ = _start(3, support.views, episode.seed)
    parameters = list(blocks.parameters())
    for parameter, value in zip(parameters, start, strict=True):
        parameter.data.copy_(value)
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-4, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, len(steps)))

    def heads(image):
        own = text.scale * functional.normalize(image, dim=1) @ text.weight.T
        corrected = own + blocks[2](blocks[0](own) + blocks[1](image))
        plain, gate = blocks[3](image), blocks[4](image).sigmoid()
        return own, plain, corrected, gate * plain + (1 - gate) * corrected

    for epoch, rows in steps:
        optimiser.zero_grad()
        own, plain, corrected, mixed = heads(support.views[epoch % 2, rows])
        loss = sum(functional.cross_entropy(scores, support.label[rows]) for scores in (plain, corrected, mixed))
        (loss + functional.l1_loss(plain, own) + functional.l1_loss(corrected, own)).backward()
        optimiser.step()
        schedule.step()
    blocks.eval()
    method, (image, _) = LdcHead(epochs=epochs, batch=6).fit(episode), example_queries(episode, raw=True)
    _, plain, corrected, mixed = heads(image)
    wide = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(method.logits(image), mixed.detach(), **wide)
    torch.testing.assert_close(method.at({"beta": 1.0}).logits(image), plain.detach(), **wide)
    torch.testing.assert_close(
        method.at({"beta": 0.25}).logits(image), (0.25 * plain + 0.75 * corrected).detach(), **wide
    )


def test_with_a_silent_third_block_the_corrected_logits_are_zero_shot(golden):
    episode, query = golden
    method = LdcHead(beta=0.0, epochs=3).fit(episode)
    method.layers = (*method.layers[:11], torch.zeros_like(method.layers[11]), *method.layers[12:])
    torch.testing.assert_close(method.logits(query), ZeroShot().fit(episode).logits(query))


def test_a_lone_last_image_is_left_out():
    method = LdcHead(epochs=2, batch=4).fit(example_episode((3, 2)))  # 5 images: 4 and 1
    assert method.logits(example_queries(example_episode((3, 2)))[0]).isfinite().all()


def test_it_counts_its_layers():
    method = LdcHead(epochs=0).fit(example_episode((2, 2, 2), dim=8))
    assert method.trained_parameters() == 6 * 8 * 8 + 3 * 3 * 8 + 11 * 8


def test_the_sweep_counts_what_each_beta_scores():
    episode = example_episode((4, 4, 4), scale=10.0, raw=True)
    image, label = example_queries(episode, raw=True)
    method = LdcHead(epochs=3).fit(episode)
    method.logit_grid = {"beta": (None, 0.0, 0.5, 1.0)}
    expected = [int((method.at({"beta": b}).logits(image).argmax(1) == label).sum()) for b in (None, 0.0, 0.5, 1.0)]
    assert method.sweep(image, label).tolist() == expected
