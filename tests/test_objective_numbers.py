"""The objective where its numbers are hard: rewards alike but for rounding, and ratios that no number holds."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spurious_rlvr.objective import CLIPS, clip_bounds, group_advantages, policy_loss, token_objective

PARTS = ([0.1, 0.2, 0.3], [0.1, 0.7, 0.25, 0.05], [1 / 3, 1 / 6, 0.5])


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out", "batch_mean"])
def test_the_same_sum_in_another_order_is_no_difference(parts, dtype, baseline):
    orders = [sum(parts), sum(reversed(parts)), math.fsum(parts), parts[-1] + sum(parts[:-1])]
    rewards = torch.tensor(orders, dtype=dtype)
    found = group_advantages(rewards, torch.zeros(4), std_epsilon=0, baseline=baseline)
    assert found.tolist() == [0.0] * 4


@settings(max_examples=200, deadline=None)
@given(
    st.integers(2, 16),
    st.floats(-3, 3),
    st.sampled_from([1e-9, 1e-3, 1.0, 1e3]),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 2**31),
)
def test_a_real_difference_is_kept_and_the_group_sums_to_zero(size, offset, scale, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    rewards = scale * (offset + torch.randn(size, generator=generator, dtype=torch.float64)).to(dtype)
    rewards[0] = rewards[1] + scale * 0.5
    found = group_advantages(rewards, torch.zeros(size), std_epsilon=0)
    assert found.abs().max() > 0
    assert abs(found.sum().item()) <= 4 * size * torch.finfo(dtype).eps * found.abs().sum().item()


def test_rewards_far_from_zero_and_close_together_sum_to_zero():
    rewards = torch.tensor([4096.0, 4096.001, 4096.002, 4096.0045, 4096.0])
    found = group_advantages(rewards, torch.zeros(5), std_epsilon=0)
    assert abs(found.sum().item()) < 1e-5 and found.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", list(CLIPS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_no_log_ratio_breaks_a_gradient_where_the_objective_is_finite(name, dtype):
    far = torch.cat([torch.linspace(-200, 200, 4001), torch.tensor([88.7, 88.8, 11.0, 11.1, -88.7, -104.0])]).to(dtype)
    for advantage in (1.0, -1.0, 0.0, 3e-3, -40.0):
        current = torch.full_like(far, -1.0).requires_grad_()
        maximised = token_objective(
            current - (-1.0 - far),
            current,
            torch.full_like(far, advantage),
            clip=name,
            bounds=clip_bounds(0.2, 0.28, name),
        )
        gradient = torch.autograd.grad(maximised.sum(), current)[0]
        finite = maximised.isfinite()
        assert gradient[finite].isfinite().all()
        assert finite.sum() >= (far < math.log(torch.finfo(dtype).max) - 4).sum()


@pytest.mark.parametrize("name", ["both", "high", "dual"])
def test_a_loss_with_one_lost_ratio_trains_the_other_tokens(name):
    logprobs = torch.tensor([[-1.0, -1.0], [-1.0, -1.0]], requires_grad=True)
    old = torch.tensor([[-101.0, -1.0], [-1.0, -1.1]])
    loss, _ = policy_loss(logprobs, old, torch.tensor([1.0, -1.0]), torch.ones(2, 2), clip=name)
    loss.backward()
    assert loss.isfinite() and logprobs.grad.isfinite().all()
    assert logprobs.grad[0, 0] == 0 and (logprobs.grad.flatten()[1:] != 0).all()
