"""Cross-modal adaptation trains on images and texts, each run as if it were alone, and can stop at any eighth."""

import pytest
import torch
from torch.nn import functional

from harness.contract import example_episode, example_queries
from harness.errors import UsageError
from methods.cross_modal import CrossModal, _samples, _schedule, _stream


def test_stopped_at_the_start_it_is_zero_shot_with_the_mean_of_raw_prompts():
    episode = example_episode()
    image, _ = example_queries(episode)
    expected = episode.text.scale * image @ functional.normalize(episode.text.raw_mean, dim=1).T
    torch.testing.assert_close(CrossModal(stop=0.0, iterations=8).fit(episode).logits(image), expected)


@pytest.mark.parametrize(("lr", "weight_decay", "batch"), [(1e-3, 1e-2, 8), (1e-4, 0.0, 32)])
def test_a_run_among_others_is_that_run_by_torchs_own_optimiser(lr, weight_decay, batch):
    episode = example_episode((3, 3), dim=8)
    rows, label = _samples(episode)
    generator = torch.Generator().manual_seed(episode.seed)
    order = [_stream(len(part), batch // 2, 60, generator) for part in rows]
    head = functional.normalize(episode.text.raw_mean, dim=1).clone().requires_grad_(True)
    optimiser = torch.optim.AdamW([head], lr=lr, weight_decay=weight_decay)
    for step, rate in enumerate(_schedule(lr, 60)):
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        sample = torch.cat([part[at[step]] for part, at in zip(rows, order, strict=True)])
        truth = torch.cat([part[at[step]] for part, at in zip(label, order, strict=True)])
        functional.cross_entropy(episode.text.scale * sample @ head.T, truth).backward()
        optimiser.step()
    method = CrossModal(iterations=60, weight_decay=weight_decay).fit(episode)
    trained = method.heads[batch, 1.0][method.runs.index((lr, weight_decay))]
    torch.testing.assert_close(trained, head.detach(), rtol=1e-4, atol=1e-5)


def test_the_schedule_warms_up_from_a_hundred_thousandth_and_then_falls():
    rates = _schedule(1e-3, 200)
    assert len(rates) == 200 and rates[0] == 1e-5
    assert rates[25] == pytest.approx(5e-4) and rates[50] == pytest.approx(1e-3)
    assert rates[150] == pytest.approx(5e-4)  # half way down a cosine of 200 steps that began at 50
    assert len(_schedule(1e-3, 10)) == 10


def test_a_pass_visits_no_row_twice_and_leaves_out_a_short_batch():
    order = _stream(7, 3, 10, torch.Generator().manual_seed(1))
    assert order.shape == (10, 3)
    assert all(len(set(order[at : at + 2].flatten().tolist())) == 6 for at in range(0, 10, 2))
    assert _stream(2, 16, 5, torch.Generator()).shape == (5, 2)  # a set smaller than half a batch


def test_every_prompt_is_a_shot_and_every_image_counts_twice_with_a_view():
    (image, text), (label, word) = _samples(example_episode((2, 1), views=3))
    assert image.shape == (6, 64) and label.tolist() == [0, 0, 1, 0, 0, 1]
    assert text.shape == (4, 64) and word.tolist() == [0, 0, 1, 1]
    assert len(_samples(example_episode((2, 1)))[0][0]) == 3


def test_training_lowers_the_loss_on_the_support_set():
    episode = example_episode((8,) * 5, scale=5.0)
    support = episode.support
    method = CrossModal(iterations=200).fit(episode)
    losses = [functional.cross_entropy(method.at({"stop": s}).logits(support.image), support.label) for s in (0.0, 1.0)]
    assert losses[1] < losses[0]


def test_it_counts_one_head():
    assert CrossModal(iterations=1).fit(example_episode((2, 3), dim=7)).trained_parameters() == 14


def test_iterations_grow_with_the_images_up_to_the_references():
    assert [CrossModal()._iterations(n) for n in (20, 1280, 32_000)] == [800, 1600, 12_800]
    assert CrossModal(iterations=5)._iterations(640) == 5


@pytest.mark.parametrize("setting", [{"batch": 1}, {"stop": 1.5}])
def test_settings_out_of_range_are_refused_in_a_line(setting):
    with pytest.raises(UsageError, match=f"{next(iter(setting))}={next(iter(setting.values()))}"):
        CrossModal(**setting).fit(example_episode((2, 2)))
