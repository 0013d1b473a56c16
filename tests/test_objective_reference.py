"""The objective against a reference written from the formulas, rollout by rollout and token by token, and against
verl's formulas.

Every loss type, ratio level and clip, padded and packed, as one batch and as several microbatches; float32 against
float64.
"""

import itertools
import math

import pytest
import torch

from spurious_rlvr.objective import CLIPS, LEVELS, LOSS_TYPES, policy_loss

EPSILON, EPSILON_HIGH, LONGEST = 0.2, 0.28, 11


def draw(seed=0):
    "Log-probabilities whose ratios lie inside and outside of the clip, and beyond the dual clip's constant."
    generator = torch.Generator().manual_seed(seed)
    lengths = [11, 1, 4, 7, 2, 9]
    logprobs = [(-2 * torch.rand(n, generator=generator, dtype=torch.float64)).requires_grad_() for n in lengths]
    old = [(row + 0.6 * torch.randn(row.shape, generator=generator, dtype=torch.float64)).detach() for row in logprobs]
    return logprobs, old, torch.randn(len(lengths), generator=generator, dtype=torch.float64).tolist()


def gated(clip, ratio, new, before, advantage, all_new, all_before):
    """The later proposals, by their own formulas. Sources: SAPO (2511.20347), DPPO (2602.04879, as verl masks), GMPO
    (2507.20673, as verl clips), VESPO (as TRL computes it), and odds of a token."""
    p, q = new.exp(), before.exp()
    others, others_before = (1 - p).clamp(min=1e-12), (1 - q).clamp(min=1e-12)  # some numbers drawn lie above 1
    if clip == "sapo":
        heat = 1.0 if advantage > 0 else 1.05
        return torch.sigmoid(heat * (ratio - 1)) * 4 / heat * advantage
    if clip == "dppo_tv":
        valid = p - q <= 0.15 if advantage > 0 else p - q >= -0.15
        return ratio.clamp(max=20.0).detach() * advantage * new * float(valid)
    if clip == "dppo_kl":
        divergence = q * (q / p).log() + (1 - q) * (others_before / others).log()
        away = p > q if advantage > 0 else p < q
        return ratio.clamp(max=20.0).detach() * advantage * new * float(not (away and divergence > 0.05))
    if clip == "gmpo":
        sign, moved = math.copysign(1.0, advantage), all_new - all_before
        return (sign * torch.minimum(sign * moved, sign * moved.clamp(-0.4, 0.4))).mean().exp() * advantage
    if clip == "vespo":
        power, rate = (2.0, 3.0) if advantage >= 0 else (3.0, 2.0)
        product = (all_new - all_before).sum().clamp(math.log(1e-8), 20.0).exp().detach()
        return product**power * (rate * (1 - product)).exp() * advantage * new
    if clip == "neutral":
        return ratio.detach() * advantage * new * float(1 - EPSILON <= ratio <= 1 + EPSILON_HIGH)
    if clip == "odds":
        odds = ratio * (1 - q) / others
        beyond = odds > 1 + EPSILON_HIGH if advantage > 0 else odds < 1 - EPSILON
        return ratio.detach() * advantage * new * float(not beyond)
    raise NotImplementedError(f"clip {clip!r} has no formula here: write it once more in gated(), from its source")


def reference(logprobs, old, advantages, clip, level, loss_type):
    """One number, by loops. Sources: PPO (Schulman 2017), dual clip (Ye 2020), CISPO (MiniMax 2025), GSPO (Zheng 2025),
    Dr. GRPO (Liu 2025), DAPO (Yu 2025)."""
    low, high = 1 - EPSILON, 1 + EPSILON_HIGH
    per_rollout = []
    for new, before, advantage in zip(logprobs, old, advantages):
        values = []
        for t in range(len(new)):
            ratio = (new[t] - before[t]).exp() if level == "token" else (new - before).mean().exp()
            upper, lower = (high if clip != "low" else math.inf), (low if clip != "high" else -math.inf)
            bounded = ratio.clamp(lower, upper)
            if clip == "pi_weighted":
                value = new[t].exp() * advantage
            elif clip == "reinforce":
                value = new[t] * advantage
            elif clip == "none":
                value = ratio * advantage
            elif clip == "cispo":
                value = bounded.detach() * advantage * new[t]
            elif clip in ("both", "high", "low", "dual"):
                value = min(ratio * advantage, bounded * advantage)
                if clip == "dual" and advantage < 0:
                    value = max(value, torch.tensor(3.0 * advantage, dtype=torch.float64))
            else:
                value = gated(clip, ratio, new[t], before[t], advantage, new, before)
            values.append(value)
        per_rollout.append(torch.stack(values))
    tokens = sum(len(v) for v in per_rollout)
    if loss_type == "grpo":
        return -sum(v.mean() for v in per_rollout) / len(per_rollout)
    if loss_type == "dr_grpo":
        return -sum(v.sum() for v in per_rollout) / (len(per_rollout) * LONGEST)
    if loss_type == "luspo":
        return -sum(v.sum() for v in per_rollout) / len(per_rollout)
    return -sum(v.sum() for v in per_rollout) / tokens


def padded(tensors):
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(t)) for t in tensors], batch_first=True)
    return torch.nn.utils.rnn.pad_sequence([t.detach().float() for t in tensors], batch_first=True), mask


def per_token(values, mask):
    return values[mask.bool()]


def found(logprobs, old, advantages, clip, level, loss_type, form):
    "Loss and gradient of ours, packed (in 1 or k microbatches) or padded."
    settings = dict(
        epsilon=EPSILON,
        epsilon_high=EPSILON_HIGH,
        clip=clip,
        loss_type=loss_type,
        importance_sampling_level=level,
        max_completion_length=LONGEST,
    )
    advantages = torch.tensor(advantages, dtype=torch.float32)
    if form == "padded":
        new, mask = padded(logprobs)
        new.requires_grad_()
        loss, _ = policy_loss(new, padded(old)[0], advantages, mask, **settings)
        loss.backward()
        return loss.item(), per_token(new.grad, mask)
    new = torch.cat([row.detach().float() for row in logprobs]).requires_grad_()
    before, index = (
        torch.cat(old).float(),
        torch.arange(len(old)).repeat_interleave(torch.tensor([len(o) for o in old])),
    )
    cuts, total = ([range(len(old))] if form == "packed" else [range(0, 2), range(2, 3), range(3, len(old))]), 0.0
    for rows in cuts:
        part = (index >= rows[0]) & (index <= rows[-1])
        loss, _ = policy_loss(
            new[part],
            before[part],
            advantages[list(rows)],
            torch.ones(int(part.sum())),
            rollout_index=index[part] - rows[0],
            total_rollouts=len(old),
            total_tokens=len(new),
            **settings,
        )
        loss.backward()
        total += loss.item()
    return total, new.grad


@pytest.mark.parametrize("form", ["padded", "packed", "microbatches"])
@pytest.mark.parametrize("clip, level, loss_type", list(itertools.product(CLIPS, LEVELS, LOSS_TYPES)))
def test_loss_and_gradient_are_the_formulas(clip, level, loss_type, form):
    if loss_type == "packed" and form == "microbatches":
        return the_packed_mean_depends_on_the_cut(clip, level)
    logprobs, old, advantages = draw()
    expected = reference(logprobs, old, advantages, clip, level, loss_type)
    expected.backward()
    expected_gradient = torch.cat([row.grad for row in logprobs])
    loss, gradient = found(*draw(), clip, level, loss_type, form)
    assert abs(loss - expected.item()) <= 1e-6
    assert (gradient - expected_gradient).norm() <= 1e-4 * expected_gradient.norm() and expected_gradient.norm() > 0


def the_packed_mean_depends_on_the_cut(clip, level):
    """`packed` is a mean over the tokens of each microbatch: cut up, it is the mean of those means, weighted by
    rollouts."""
    logprobs, old, advantages = draw()
    parts = [(slice(0, 2), 2), (slice(2, 3), 1), (slice(3, 6), 3)]
    expected = sum(reference(logprobs[s], old[s], advantages[s], clip, level, "packed") * n / 6 for s, n in parts)
    assert abs(found(*draw(), clip, level, "packed", "microbatches")[0] - expected.item()) <= 1e-6


def verl_loss(new, old, advantages, mask, *, low, high, dual, mode, longest):
    "verl's clipped loss with its dual clip, and its ways of aggregating, from its documentation."
    log_ratio = (new - old).clamp(-20, 20)
    ratio, advantages = log_ratio.exp(), advantages[:, None]
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))
    losses = torch.where(advantages < 0, torch.minimum(losses, -advantages * dual), losses)
    if mode == "token-mean":
        return (losses * mask).sum() / mask.sum()
    per_sequence = (losses * mask).sum(1)
    return (per_sequence / mask.sum(1)).mean() if mode == "seq-mean-token-mean" else per_sequence.mean() / longest


@pytest.mark.parametrize(
    "loss_type, mode",
    [
        ("dapo", "token-mean"),
        ("bnpo", "token-mean"),
        ("grpo", "seq-mean-token-mean"),
        ("dr_grpo", "seq-mean-token-sum-norm"),
    ],
)
@pytest.mark.parametrize("clip, dual", [("both", 1e9), ("dual", 3.0)])
def test_loss_and_gradient_are_verls(loss_type, mode, clip, dual):
    logprobs, old, advantages = draw(1)
    new, mask = padded(logprobs)
    new.requires_grad_()
    theirs = verl_loss(
        new,
        padded(old)[0],
        torch.tensor(advantages, dtype=torch.float32),
        mask,
        low=EPSILON,
        high=EPSILON_HIGH,
        dual=dual,
        mode=mode,
        longest=LONGEST,
    )
    theirs.backward()
    loss, gradient = found(*draw(1), clip, "token", loss_type, "padded")
    assert abs(loss - theirs.item()) <= 1e-6
    assert (gradient - per_token(new.grad, mask)).norm() <= 1e-4 * gradient.norm()
