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


def by_torch(name: str, start: tuple[torch.Tensor, ...], steps: int) -> list[torch.Tensor]:
    _, theirs, settings = PAIRS[name]
    parameters = [value.clone().requires_grad_(True) for value in start]
    optimiser = theirs(parameters, lr=1e-4, **settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        optimiser.zero_grad()
        quartic(step % 7, *parameters).backward()
        optimiser.step()
        schedule.step()
    return [parameter.detach() for parameter in parameters]


def by_hand(name: str, value: torch.Tensor, steps: int) -> torch.Tensor:
    """The formulas of the papers, for one parameter: Kingma and Ba, Loshchilov and Hutter, and heavy-ball SGD."""
    ours, first, second = PAIRS[name][0], torch.zeros_like(value), torch.zeros_like(value)
    for step, rate in enumerate(_training.cosine(1e-4, steps)):
        point = value.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(quartic(step % 7, point), point)
        slope = slope + ours.l2 * value
        if isinstance(ours, Sgd):
            first = ours.momentum * first + slope
            value = value - rate * first
            continue
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        unbiased, spread = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        value = value - rate * (ours.weight_decay * value + unbiased / (spread.sqrt() + ours.eps))
    return value


def by_us(name: str, start: tuple[torch.Tensor, ...], steps: int) -> tuple[torch.Tensor, ...]:
    def loss(step: int, *parameters: torch.Tensor) -> torch.Tensor:
        return quartic(step % 7, *parameters)

    return _training.descend(loss, *start, rates=_training.cosine(1e-4, steps), optimiser=PAIRS[name][0])


@pytest.mark.parametrize("name", PAIRS)
def test_descent_takes_the_steps_of_torch_under_a_cosine(name):
    start = rows(4, 3), rows(2, 3, seed=1)
    for one, other in zip(by_us(name, start, 50), by_torch(name, start, 50), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("name", PAIRS)
def test_descent_takes_the_steps_of_the_papers(name):
    torch.testing.assert_close(by_us(name, (rows(4, 3),), 50)[0], by_hand(name, rows(4, 3), 50), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("name", PAIRS)
def test_parameters_and_slopes_may_lie_in_memory_in_any_order(name):
    """The slope of a sum is one number seen everywhere, that of a transpose is transposed, and so is the start."""

    def loss(step: int, x: torch.Tensor) -> torch.Tensor:
        return x.sum() + (x.T * weight).sum()

    weight, rates, ours = rows(3, 4), [0.1] * 3, PAIRS[name][0]
    (lying,) = _training.descend(loss, rows(4, 3), rates=rates, optimiser=ours)
    (standing,) = _training.descend(loss, rows(4, 3).T.contiguous().T, rates=rates, optimiser=ours)
    (spread,) = _training.descend(lambda step, x: (x * (1 + weight.T)).sum(), rows(4, 3), rates=rates, optimiser=ours)
    torch.testing.assert_close(lying, standing)
    torch.testing.assert_close(lying, spread)


@pytest.mark.parametrize(
    ("optimiser", "each"),
    [
        (Adam(eps=1e-4), [Adam(eps=1e-4)] * 2),
        (Sgd(l2=0.1), [Sgd(l2=0.1)] * 2),
        (Adam(weight_decay=torch.tensor([0.0, 0.5])[:, None, None]), [Adam(), Adam(weight_decay=0.5)]),
    ],
)
def test_runs_side_by_side_are_the_runs_one_by_one(optimiser, each):
    start, lrs, steps = rows(3, 2), [1e-3, 1e-4], 7
    alone = [
        _training.descend(quartic, start, rates=_training.cosine(lr, steps), optimiser=own)[0]
        for lr, own in zip(lrs, each, strict=True)
    ]
    both_rates = torch.tensor(lrs, dtype=torch.float64)[:, None, None]
    rates = [both_rates * factor for factor in _training.cosine(1.0, steps)]

    def loss(step, both):
        return quartic(step, both[0]) + quartic(step, both[1])

    (together,) = _training.descend(loss, torch.stack([start, start]), rates=rates, optimiser=optimiser)
    torch.testing.assert_close(together, torch.stack(alone))


def test_descent_by_slopes_is_descent():
    """The slope of |x - step|^2 is 2 (x - step)."""
    start, rates = rows(3), [0.1] * 6
    (one,) = _training.descend(lambda step, x: (x - step).square().sum(), start, rates=rates, optimiser=Adam())
    (other,) = _training.descend_by(
        lambda step, x: ((x - step).square().sum(), [2 * (x - step)]), start, rates=rates, optimiser=Adam()
    )
    torch.testing.assert_close(one, other)


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


def test_batches_take_the_next_view_each_epoch():
    """Rows name their view and themselves, so a batch tells where it came from."""
    views, label = torch.arange(2)[:, None] * 100 + torch.arange(5), torch.arange(5) + 1000
    batches = _training.Batches(views[..., None].float(), label, epochs=3, batch=2, seed=4)
    steps = _training.shuffled(5, 3, 2, seed=4)
    assert len(batches) == len(steps) and batches.epochs == [epoch for epoch, _ in steps]
    for step, (epoch, expected) in enumerate(steps):
        image, truth = batches(step)
        assert batches.views[step] == epoch % 2 and torch.equal(batches.rows[step], expected)
        assert image.squeeze(1).tolist() == (100 * (epoch % 2) + expected).tolist()
        assert truth.tolist() == (1000 + expected).tolist()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_rows_of_all_steps_keep_their_sizes_on_another_device(device):
    moved = _training.on_device([torch.arange(3), torch.arange(2)], torch.device(device))
    assert [(rows.device.type, len(rows)) for rows in moved] == [(device, 3), (device, 2)]
    assert len(_training.on_device([], torch.device(device))) == 0


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
