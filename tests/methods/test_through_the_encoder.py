"""Methods that train through the encoder, on the embedded encoder and rendered pictures: what must hold exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from harness import encoder
from harness.encoder import Encoder
from harness.pixels import Handle, QueryImages, SupportImages
from harness.types import Episode, Features, Text
from methods import _maths, _towers
from methods.clip_lora import ClipLora
from methods.coop import Coop
from methods.wise_ft import WiseFt

CLASSES = ("red square", "green_square", "blue square")
COLOURS = ((200, 30, 30), (30, 180, 40), (40, 60, 210))


@dataclass(frozen=True)
class Problem:
    episode: Episode
    encoder: Encoder
    paths: Sequence[Path]

    @property
    def pixels(self) -> Tensor:
        return QueryImages(self.paths, self.encoder)[:]  # (N, 3, H, W)

    def zero_shot(self, pixels: Tensor) -> Tensor:
        return _maths.zero_shot(self.encoder.image(pixels), self.episode.text)  # (B, C)


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """Three classes of four pictures each: a coloured square at different places."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for c, colour in enumerate(COLOURS):
        for i in range(4):
            picture = Image.new("RGB", (70, 60), (220, 220, 210))
            picture.paste(colour, (5 + 9 * i, 10 + 5 * c, 25 + 9 * i, 30 + 5 * c))
            paths.append(folder / f"{c}-{i}.png")
            picture.save(paths[-1])
    demo = encoder.load("demo", "cpu")
    label = torch.arange(3).repeat_interleave(4)  # (N,)
    sentences = tuple((f"a photo of a {name.replace('_', ' ')}.", f"{name.replace('_', ' ')}.") for name in CLASSES)
    prompts = torch.stack([demo.text(found) for found in sentences])  # (C, P, D)
    images = SupportImages(paths, [path.name for path in paths], demo, seed=1)
    image = functional.normalize(demo.image(images.plain(range(12))), dim=-1)  # (N, D)
    episode = Episode(
        Features(image, label),
        Text.from_prompts(CLASSES, prompts, demo.scale),
        shots=4,
        seed=1,
        dataset="pictures",
        images=images,
        encoder=Handle(demo, sentences),
    )
    return Problem(episode, demo, paths)


# -- pixels ------------------------------------------------------------------------------------------


def test_a_crop_follows_from_image_draw_and_seed_alone(problem: Problem) -> None:
    images = problem.episode.images
    assert isinstance(images, SupportImages)
    one = images.augmented([3, 5], draw=7)
    assert one.shape == (2, 3, 60, 60) and one.dtype == torch.uint8
    assert torch.equal(images.augmented([5], draw=7)[0], one[1])
    assert torch.equal(images.subset([5]).augmented([0], draw=7)[0], one[1])
    assert not torch.equal(images.augmented([3, 5], draw=8), one)
    assert not torch.equal(replace(images, seed=2).augmented([3, 5], draw=7), one)


def test_images_beyond_the_memory_limit_are_read_again_and_equal(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness import pixels

    images = problem.episode.images
    assert isinstance(images, SupportImages)
    fresh = images.subset(range(12))
    monkeypatch.setattr(pixels, "KEPT", 3 * 70 * 60 * 2)
    twice = [fresh.plain(range(12)) for _ in range(2)]
    assert len(fresh._decoded) == 2
    assert torch.equal(twice[0], twice[1]) and torch.equal(twice[0], images.plain(range(12)))


def test_query_images_give_the_rows_asked_for(problem: Problem) -> None:
    queries = QueryImages(problem.paths, problem.encoder)
    assert len(queries) == 12
    assert torch.equal(queries[2:4], queries[[2, 3]])
    assert torch.equal(queries[:], problem.episode.images.plain(range(12)))  # type: ignore[union-attr]


# -- low-rank attention ------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_low_rank_attention_equals_attention_with_changed_weights(masked: bool) -> None:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(24, 3, batch_first=True).eval()
    nn.init.normal_(plain.in_proj_bias)
    changed = _towers.LowRankAttention(plain, rank=2, scale=0.5, drop=0.25, seed=3).eval()
    x = torch.randn(5, 7, 24)
    mask = torch.full((7, 7), -torch.inf).triu(1) if masked else None
    with torch.no_grad():
        before = plain(x, x, x, need_weights=False, attn_mask=mask)[0]
        torch.testing.assert_close(changed(x, x, x, attn_mask=mask)[0], before, atol=1e-6, rtol=1e-5)
        changed.up.normal_()
        merged = nn.MultiheadAttention(24, 3, batch_first=True).eval()
        merged.load_state_dict(plain.state_dict())
        merged.in_proj_weight += 0.5 * (changed.up @ changed.down).flatten(0, 1)
        expected = merged(x, x, x, need_weights=False, attn_mask=mask)[0]
        found = changed(x, x, x, attn_mask=mask)[0]
    assert (found - before).abs().max() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


# -- CLIP-LoRA and WiSE-FT ---------------------------------------------------------------------------


def test_untrained_additions_leave_zero_shot(problem: Problem) -> None:
    fitted = ClipLora(steps=0).fit(problem.episode)
    torch.testing.assert_close(fitted.logits(problem.pixels), problem.zero_shot(problem.pixels), atol=1e-3, rtol=1e-4)
    # 6 * R * W per layer: four image layers of width 128, two text layers of width 64
    assert fitted.trained_parameters() == 6 * 2 * (4 * 128 + 2 * 64)


def test_training_learns_and_leaves_the_shared_model_alone(problem: Problem) -> None:
    weights = {name: tensor.clone() for name, tensor in problem.encoder.model.state_dict().items()}
    fitted = ClipLora(steps=25, batch=6, lr=1e-2).fit(problem.episode)
    label = problem.episode.support.label
    before, after = (
        functional.cross_entropy(x, label) for x in (problem.zero_shot(problem.pixels), fitted.logits(problem.pixels))
    )
    assert after < before / 2
    assert all(torch.equal(tensor, weights[name]) for name, tensor in problem.encoder.model.state_dict().items())
    assert not problem.encoder.model.training
    again = ClipLora(steps=25, batch=6, lr=1e-2).fit(problem.episode)
    torch.testing.assert_close(again.logits(problem.pixels), fitted.logits(problem.pixels))
    other = ClipLora(steps=25, batch=6, lr=1e-2).fit(replace(problem.episode, seed=2))
    assert not torch.allclose(other.logits(problem.pixels), fitted.logits(problem.pixels))


def test_a_fit_draws_nothing_from_the_global_generator(problem: Problem) -> None:
    state = torch.get_rng_state()
    ClipLora(steps=1).fit(problem.episode)
    Coop(epochs=1).fit(problem.episode)
    assert torch.equal(torch.get_rng_state(), state)


def test_wise_ft_is_the_line_between_zero_shot_and_the_tuned_model(problem: Problem) -> None:
    settings = {"steps": 8, "batch": 6, "lr": 5e-3}
    wise, tuned = WiseFt(**settings).fit(problem.episode), ClipLora(**settings).fit(problem.episode)
    pixels = problem.pixels
    at = {blend: wise.at({"blend": blend}).logits(pixels) for blend in (1.0, 0.0, 0.25)}
    torch.testing.assert_close(at[0.0], problem.zero_shot(pixels), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(at[1.0], tuned.logits(pixels), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(at[0.25], _blended_by_hand(problem, tuned, 0.25), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(wise.at({"blend": 0.25}).logits(pixels), at[0.25])  # whatever ran in between


def _blended_by_hand(problem: Problem, tuned: ClipLora, blend: float) -> Tensor:
    """A plain copy of the model whose attention weights are (1 - blend) * W + blend * (W + scale * B A)."""
    clip = problem.episode.encoder
    assert clip is not None
    model = clip.copy()
    plain = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    with torch.no_grad():
        for attention, layer in zip(plain, tuned.layers, strict=True):
            attention.in_proj_weight += blend * layer.scale * (layer.up @ layer.down).flatten(0, 1)
        image = functional.normalize(model.encode_image(clip.normalise(problem.pixels)), dim=-1)
        rows = [functional.normalize(model.encode_text(clip.tokens(s)), dim=-1).mean(0) for s in clip.sentences]
        text = functional.normalize(torch.stack(rows), dim=-1)
    scaled: Tensor = clip.scale * image @ text.T
    return scaled


# -- CoOp --------------------------------------------------------------------------------------------


def test_words_of_a_template_as_context_give_that_template(problem: Problem) -> None:
    method = Coop(words=4, epochs=1)
    fitted = method.fit(problem.episode)
    clip = problem.episode.encoder
    assert clip is not None and fitted.context.shape == (4, 64) and fitted.trained_parameters() == 4 * 64
    fitted.model = clip.copy()
    with torch.no_grad():
        words = _towers.word_vectors(fitted.model, clip.tokens(["a photo of a"]))[0, 1:5]  # (M, W)
        found = fitted._class_vectors(words)  # (C, D)
    sentences = ["a photo of a red square.", "a photo of a green square.", "a photo of a blue square."]
    expected = functional.normalize(problem.encoder.text(sentences), dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_learnt_words_lower_the_loss_and_score_by_cosine(problem: Problem) -> None:
    support = problem.episode.support
    short, long = (Coop(words=4, epochs=n, lr=0.05).fit(problem.episode) for n in (1, 60))
    losses = [functional.cross_entropy(m.logits(support.image), support.label) for m in (short, long)]
    assert losses[1] < losses[0] - 0.05
    logits = long.logits(support.image)
    torch.testing.assert_close(logits, problem.encoder.scale * support.image @ long.weight.T)
    torch.testing.assert_close(long.logits(7 * support.image), logits)  # lengths do not matter
    assert torch.equal(
        Coop(words=4, epochs=3).fit(problem.episode).weight, Coop(words=4, epochs=3).fit(problem.episode).weight
    )


def test_fewer_words_where_the_context_is_short(problem: Problem) -> None:
    fitted = Coop(words=16, epochs=1).fit(problem.episode)
    # 20 places: start, "red square." of three tokens, end, and what is left for words
    assert fitted.count == 20 - 5 and fitted.facts() == {"words": 15}
