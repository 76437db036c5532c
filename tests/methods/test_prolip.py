"""ProLIP takes the projection out of the tower, trains it near its start, and leaves the encoder alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from harness import encoder
from harness.errors import HarnessError
from harness.pixels import Handle, QueryImages, SupportImages
from harness.types import Episode, Features, Text
from methods import _maths
from methods.prolip import ProLip, take_projection


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Episode, torch.Tensor]:
    """Two classes of three pictures, squares called by each other's colour, and the pictures as queries."""
    folder, demo = tmp_path_factory.mktemp("squares"), encoder.load("demo", "cpu")
    paths: list[Path] = []
    for c in range(2):
        for i in range(3):
            picture = Image.new("RGB", (64, 64), (220, 220, 210))
            picture.paste((40, 60, 210) if c else (200, 30, 30), (8 + 4 * i, 20, 28 + 4 * i, 40))
            paths.append(folder / f"{c}-{i}.png")
            picture.save(paths[-1])
    sentences = (("a photo of a blue square.",), ("a photo of a red square.",))
    prompts = torch.stack([demo.text(found) for found in sentences])  # (C, P, D)
    images = SupportImages(paths, [path.name for path in paths], demo, seed=1)
    support = Features(demo.image(images.plain(range(6))), torch.tensor([0, 0, 0, 1, 1, 1]))
    text = Text.from_prompts(("blue square", "red square"), prompts, demo.scale)
    episode = Episode(support, text, 3, 1, "squares", images=images, encoder=Handle(demo, sentences))
    return episode, QueryImages(paths, demo)[:]


def test_before_training_it_is_zero_shot(problem):
    episode, pixels = problem
    expected = _maths.zero_shot(episode.support.image, episode.text)
    torch.testing.assert_close(ProLip(epochs=0, drawn=1).fit(episode).logits(pixels), expected, rtol=1e-4, atol=1e-3)


def test_training_lowers_the_loss_and_a_firmer_penalty_stays_nearer(problem):
    episode, pixels = problem
    methods = [ProLip(lr=1e-3, strength=s, epochs=30, drawn=2) for s in (0.0, 100.0)]
    for method in methods:
        method.logit_grid = {}
        method.fit(episode)
    start, _ = take_projection(episode.encoder.copy())
    moved = [(method.projections[1e-3] - start).norm() for method in methods]
    assert moved[0] > 2 * moved[1] > 0
    loose = functional.cross_entropy(methods[0].logits(pixels), episode.support.label)
    assert loose < functional.cross_entropy(
        _maths.zero_shot(episode.support.image, episode.text), episode.support.label
    )


def test_one_fit_trains_every_rate_and_the_shared_encoder_stays(problem):
    episode, pixels = problem
    method = ProLip(epochs=5, drawn=1).fit(episode)
    assert set(method.projections) == set(ProLip.logit_grid["lr"])
    scores = [method.at({"lr": rate}).logits(pixels) for rate in (1e-5, 1e-2)]
    assert not torch.allclose(*scores)
    assert torch.equal(ProLip(epochs=5, drawn=1).fit(episode).logits(pixels), method.logits(pixels))
    assert method.trained_parameters() == method.projections[1e-5].numel()


def test_rates_side_by_side_are_those_rates_alone(problem):
    """Products of other sizes round otherwise; 20 steps keep that below 1e-5."""
    episode, _ = problem
    together = ProLip(epochs=20, drawn=1).fit(episode)
    for rate, projection in together.projections.items():
        alone = ProLip(lr=rate, epochs=20, drawn=1)
        alone.logit_grid = {}
        torch.testing.assert_close(projection, alone.fit(episode).projections[rate], rtol=1e-4, atol=1e-5)


def test_the_projection_of_a_resnet_comes_out_with_its_bias():
    from open_clip.modified_resnet import ModifiedResNet

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = ModifiedResNet((1, 1, 1, 1), output_dim=12, heads=4, image_size=64, width=8)

    torch.manual_seed(1)
    model, pixels = Model().eval(), torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        whole = model.visual(pixels)
        weight, bias = take_projection(model)
        torch.testing.assert_close(model.visual(pixels) @ weight + bias, whole, rtol=1e-4, atol=1e-5)


def test_a_tower_of_another_kind_is_refused():
    class Model(nn.Module):
        visual = nn.Linear(2, 2)

    with pytest.raises(HarnessError, match="no projection"):
        take_projection(Model())
