"""The training loop takes the steps of torch's own optimisers, under the schedules and batches it says."""

import math
import subprocess
import sys

import pytest
import torch

from harness.contract import example_episode
from harness.errors import HarnessError, UsageError
from methods import _training
from methods._training import Adam, Sgd


def rows(count: int, dim: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def quartic(step: int, *parameters: torch.Tensor) -> torch.Tensor:
    """A loss that couples its parameters and changes with the step."""
    total = sum(parameter.sum(0) for parameter in parameters)
    return ((total - step) ** 4).sum() + sum((parameter**2).sum() for parameter in parameters)


PAIRS = {
    "AdamW": (Adam(weight_decay=0.1, eps=1e-4), torch.optim.AdamW, {"weight_decay": 0.1, "eps": 1e-4}),
    "Adam": (Adam(l2=0.1), torch.optim.Adam, {"weight_decay": 0.1}),
    "SGD": (Sgd(momentum=0.9, l2=0.1), torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_descent_takes_the_steps_of_torch_under_a_cosine(name):
    ours, theirs, settings = PAIRS[name]
    start = rows(4, 3), rows(2, 3, seed=1)
    parameters = [value.clone().requires_grad_(True) for value in start]
    optimiser = theirs(parameters, lr=1e-3, **settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 15)
    for step in range(15):
        optimiser.zero_grad()
        quartic(step, *parameters).backward()
        optimiser.step()
        schedule.step()
    trained = _training.descend(quartic, *start, rates=_training.cosine(1e-3, 15), optimiser=ours)
    for one, other in zip(trained, parameters, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("optimiser", [Adam(), Sgd()])
def test_runs_side_by_side_are_the_runs_one_by_one(optimiser):
    start, lrs = rows(3, 2), [1e-3, 1e-4]
    alone = [_training.descend(quartic, start, rates=_training.cosine(lr, 7), optimiser=optimiser)[0] for lr in lrs]
    each = torch.tensor(lrs, dtype=torch.float64)[:, None, None]
    rates = [each * factor for factor in _training.cosine(1.0, 7)]

    def loss(step, both):
        return quartic(step, both[0]) + quartic(step, both[1])

    (together,) = _training.descend(loss, torch.stack([start, start]), rates=rates, optimiser=optimiser)
    torch.testing.assert_close(together, torch.stack(alone))


def test_descent_without_steps_is_the_start():
    start = rows(2)
    assert torch.equal(_training.descend(quartic, start, rates=[], optimiser=Adam())[0], start)


def test_descent_leaves_the_start_alone_and_works_where_gradients_are_off():
    start = rows(2)
    before = start.clone()
    with torch.no_grad():
        (end,) = _training.descend(quartic, start, rates=[0.1] * 3, optimiser=Sgd())
    assert torch.equal(start, before) and not torch.equal(start, end) and not end.requires_grad


def test_a_training_that_breaks_down_tells_step_and_value():
    with pytest.raises(HarnessError, match=r"loss was nan at step 3 of 5"):
        _training.descend(
            lambda step, x: x.sum() * (math.nan if step == 2 else 1), rows(2), rates=[0.1] * 5, optimiser=Adam()
        )


def test_a_cosine_begins_at_its_rate_and_nears_zero():
    assert _training.cosine(2.0, 4) == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)])
    assert _training.cosine(2.0, 0) == []


def test_dassls_cosine_warms_up_for_an_epoch_and_starts_to_fall_after_it():
    """Four epochs of two steps: 1e-5, then cos(0), cos(pi/4), cos(2 pi/4) of the half wave."""
    expected = [1e-5, 2, 1 + math.sqrt(0.5), 1]
    assert _training.dassl_cosine(2.0, [0, 0, 1, 1, 2, 2, 3, 3]) == pytest.approx([r for r in expected for _ in "ab"])
    assert _training.dassl_cosine(2.0, []) == []


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own():
    steps = _training.shuffled(10, 3, 4, seed=1)
    assert [epoch for epoch, _ in steps] == [0] * 3 + [1] * 3 + [2] * 3
    orders = [torch.cat([batch for at, batch in steps if at == epoch]).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1]


@pytest.mark.parametrize(("n", "sizes"), [(10, [4, 4]), (8, [4, 4]), (4, [4]), (3, [3])])
def test_a_short_last_batch_is_dropped_unless_it_is_the_only_one(n, sizes):
    steps = _training.shuffled(n, 2, 4, seed=1, drop_last=True)
    assert [len(batch) for epoch, batch in steps if epoch == 1] == sizes


def test_views_have_unit_norm_and_images_stand_in_for_them():
    with_views, without = (example_episode(raw=True, views=views).support for views in (2, 0))
    assert _training.unit_views(with_views).shape == (2, 20, 64)
    assert _training.unit_views(without).shape == (1, 20, 64)
    torch.testing.assert_close(_training.unit_views(without).norm(dim=-1), torch.ones(1, 20))


@pytest.mark.parametrize(("epochs", "batch"), [(1, 0), (-1, 4)])
def test_batches_and_epochs_out_of_range_are_refused_in_a_line(epochs, batch):
    with pytest.raises(UsageError, match=f"batch={batch} and epochs={epochs}"):
        _training.shuffled(10, epochs, batch, seed=1)


MEMORY = """
import resource, torch
from methods import _training
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10  # MiB on Linux
x, y, w = torch.randn(1000, 16), torch.arange(1000), torch.zeros(1000, 16)
loss = lambda step, w: torch.nn.functional.cross_entropy(x @ w.T, y)
_training.descend(loss, w, rates=[0.1] * 10, optimiser=_training.Sgd())
before = peak()
_training.descend(loss, w, rates=[0.1] * 200, optimiser=_training.Sgd())
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the unit of the peak differs elsewhere")
def test_memory_does_not_grow_with_the_number_of_steps():
    """4 MB of scores a step: 200 steps that leave a gap each would take 800 MB."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100
