"""The objective against TRL's own trainer: the same model, the same tokens, its `_compute_loss` and ours.

The loss must agree to 1e-6 and the gradient of every weight to 1e-4 relative, in float32.
"""

import contextlib
import io

import pytest
import torch

from spurious_rlvr.objective import policy_loss
from spurious_rlvr.policy import build_qwen2, piece_tokenizer

ROLLOUTS, PROMPT, COMPLETION, GROUP = 8, 5, 9, 4
PIECES = [f"w{i} " for i in range(40)]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = piece_tokenizer(PIECES)
    model = build_qwen2(tokenizer, hidden_size=32, layers=2, heads=4, seed=3)
    settings = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        per_device_train_batch_size=ROLLOUTS,
        num_generations=GROUP,
        max_completion_length=COMPLETION,
        temperature=1.0,
        disable_dropout=True,
        beta=0.0,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        made = GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=settings,
            train_dataset=Dataset.from_list([{"prompt": "w3 w4 "}] * ROLLOUTS),
            processing_class=tokenizer,
        )
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    made.args.steps_per_generation = 1
    return made


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randint(3, len(PIECES) + 3, shape, generator=generator)

    lengths = torch.randint(1, COMPLETION + 1, (ROLLOUTS,), generator=generator)
    lengths[0] = COMPLETION
    mask = (torch.arange(COMPLETION) < lengths[:, None]).long()
    old = -1 - 3 * torch.rand(ROLLOUTS, COMPLETION, generator=generator)
    return dict(
        prompt_ids=draw(ROLLOUTS, PROMPT),
        prompt_mask=torch.ones(ROLLOUTS, PROMPT, dtype=torch.long),
        completion_ids=draw(ROLLOUTS, COMPLETION),
        completion_mask=mask,
        advantages=torch.randn(ROLLOUTS, generator=generator),
        old_per_token_logps=old,
        ref_per_token_logps=old + 0.3 * torch.randn(ROLLOUTS, COMPLETION, generator=generator),
        num_items_in_batch=mask.sum(),
    )


def logprobs(model, inputs):
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    logits = model(input_ids=ids).logits[:, PROMPT - 1 : -1].log_softmax(-1)
    return logits.gather(2, inputs["completion_ids"][..., None])[..., 0]


def near(inputs, model, spread):
    "Old log-probabilities near the present ones, so that ratios lie on both sides of the clip."
    with torch.no_grad():
        current = logprobs(model, inputs)
    inputs["old_per_token_logps"] = current + spread * torch.randn(
        current.shape, generator=torch.Generator().manual_seed(7)
    )
    inputs["ref_per_token_logps"] = current + 0.2 * torch.randn(
        current.shape, generator=torch.Generator().manual_seed(8)
    )
    return inputs


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.grad is not None])


CASES = [
    dict(
        loss_type=loss,
        epsilon=low,
        epsilon_high=high,
        importance_sampling_level=level,
        beta=beta,
        kl_ratio_weighted=weighted,
    )
    for loss in ("grpo", "dr_grpo", "bnpo", "dapo")
    for low, high in ((0.2, 0.2), (0.1, 0.28))
    for level in ("token", "sequence")
    for beta, weighted in ((0.0, False), (0.05, False), (0.05, True))
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(str(v) for v in c.values()))
def test_loss_and_gradient_are_trls(trainer, case):
    model = trainer.model
    inputs = near(batch(), model, spread=0.3)
    trainer.loss_type, trainer.epsilon_low, trainer.epsilon_high = (
        case["loss_type"],
        case["epsilon"],
        case["epsilon_high"],
    )
    trainer.importance_sampling_level, trainer.beta, trainer.args.use_bias_correction_kl = (
        case["importance_sampling_level"],
        case["beta"],
        case["kl_ratio_weighted"],
    )
    theirs = trainer._compute_loss(model, inputs)
    their_gradient = gradients(model, theirs)
    ours, stats = policy_loss(
        logprobs(model, inputs),
        inputs["old_per_token_logps"],
        inputs["advantages"],
        inputs["completion_mask"],
        ref_logprobs=inputs["ref_per_token_logps"],
        max_completion_length=COMPLETION,
        **case,
    )
    our_gradient = gradients(model, ours)
    assert abs(ours.item() - theirs.item()) <= 1e-6
    assert (our_gradient - their_gradient).norm() <= 1e-4 * their_gradient.norm()
    metrics = trainer._metrics["train"]
    if case["importance_sampling_level"] == "token":
        assert (
            stats["clip_fraction_high"] == pytest.approx(metrics["clip_ratio/high_mean"][-1], abs=1e-6)
            and stats["clip_fraction_high"] > 0
        )
        assert (
            stats["clip_fraction_low"] == pytest.approx(metrics["clip_ratio/low_mean"][-1], abs=1e-6)
            and stats["clip_fraction_low"] > 0
        )
    if case["beta"] and not case["kl_ratio_weighted"]:
        assert stats["kl_mean"] == pytest.approx(metrics["kl"][-1], rel=1e-4)


def test_a_changed_epsilon_is_noticed(trainer):
    "The comparison can fail: with another epsilon the losses differ by far more than the tolerance."
    inputs = near(batch(), trainer.model, spread=0.3)
    trainer.loss_type, trainer.epsilon_low, trainer.epsilon_high, trainer.importance_sampling_level, trainer.beta = (
        "grpo",
        0.2,
        0.2,
        "token",
        0.0,
    )
    theirs = trainer._compute_loss(trainer.model, inputs)
    ours, _ = policy_loss(
        logprobs(trainer.model, inputs),
        inputs["old_per_token_logps"],
        inputs["advantages"],
        inputs["completion_mask"],
        epsilon=0.25,
    )
    assert abs(ours.item() - theirs.item()) > 1e-4


SETTLED = {  # an objective's name -> what TRL calls it
    "dapo": dict(loss_type="dapo", epsilon_low=0.2, epsilon_high=0.28),
    "grpo": dict(loss_type="grpo", epsilon_low=0.2, epsilon_high=0.2),
    "grpo_clip_higher": dict(loss_type="grpo", epsilon_low=0.2, epsilon_high=0.28),
    "dr_grpo": dict(loss_type="dr_grpo", epsilon_low=0.2, epsilon_high=0.2),
    "gspo": dict(loss_type="grpo", epsilon_low=0.2, epsilon_high=0.2, importance_sampling_level="sequence"),
    "luspo": dict(loss_type="luspo", epsilon_low=0.2, epsilon_high=0.2, importance_sampling_level="sequence"),
    "cispo_trl": dict(loss_type="cispo", epsilon_high=5.0),
    "sapo": dict(loss_type="sapo"),
    "vespo": dict(loss_type="vespo"),
}


def as_named(trainer, settings):
    trainer.loss_type = settings["loss_type"]
    trainer.epsilon_low, trainer.epsilon_high = settings.get("epsilon_low", 0.2), settings.get("epsilon_high", 0.2)
    trainer.importance_sampling_level = settings.get("importance_sampling_level", "token")
    trainer.beta, trainer.args.use_bias_correction_kl = 0.0, False


def our_loss(model, inputs, name):
    return policy_loss(
        logprobs(model, inputs),
        inputs["old_per_token_logps"],
        inputs["advantages"],
        inputs["completion_mask"],
        max_completion_length=COMPLETION,
        objective=name,
    )


@pytest.mark.parametrize("spread", [0.02, 0.3, 1.5])
@pytest.mark.parametrize("name", SETTLED)
def test_an_objective_by_name_is_trls(trainer, name, spread):
    inputs = near(batch(), trainer.model, spread=spread)
    as_named(trainer, SETTLED[name])
    theirs = trainer._compute_loss(trainer.model, inputs)
    their_gradient = gradients(trainer.model, theirs)
    ours, tokens = our_loss(trainer.model, inputs, name)
    our_gradient = gradients(trainer.model, ours)
    assert abs(ours.item() - theirs.item()) <= 1e-6 * max(1, abs(theirs.item()))
    assert (our_gradient - their_gradient).norm() <= 1e-4 * their_gradient.norm()
    assert (tokens["gradient_weight"] > 0).any()


@pytest.mark.parametrize("name", ["sapo", "vespo", "cispo_trl"])
def test_another_constant_of_a_gate_is_noticed(trainer, name):
    inputs = near(batch(), trainer.model, spread=1.5)
    as_named(trainer, SETTLED[name])
    kept = trainer.args.sapo_temperature_neg, trainer.args.vespo_k_neg
    trainer.args.sapo_temperature_neg, trainer.args.vespo_k_neg, trainer.epsilon_high = 1.2, 2.5, 3.0
    theirs = trainer._compute_loss(trainer.model, inputs)
    trainer.args.sapo_temperature_neg, trainer.args.vespo_k_neg = kept
    assert abs(our_loss(trainer.model, inputs, name)[0].item() - theirs.item()) > 1e-5


@pytest.mark.parametrize("spread", [0.05, 0.6])
def test_gmpo_is_trls(trainer, spread):
    from trl.experimental.gmpo.gmpo_trainer import GMPOTrainer

    inputs = near(batch(), trainer.model, spread=spread)
    as_named(trainer, dict(loss_type="grpo", epsilon_low=0.4, epsilon_high=0.4))
    theirs = GMPOTrainer._compute_loss(trainer, trainer.model, inputs)
    their_gradient = gradients(trainer.model, theirs)
    ours, tokens = our_loss(trainer.model, inputs, "gmpo")
    our_gradient = gradients(trainer.model, ours)
    assert abs(ours.item() - theirs.item()) <= 1e-6
    assert (our_gradient - their_gradient).norm() <= 1e-4 * their_gradient.norm()
    assert (tokens["clip_side"] != 0).any() == (spread > 0.5)


def test_gdpos_advantages_are_trls_rule():
    "TRL's lines run inside its generation; here is its rule, from a (groups, G, k) cube without its NaN."
    from trl.trainer.utils import nanstd

    from spurious_rlvr.objective import objective_advantages

    rewards = torch.randn(24, 3, generator=torch.Generator().manual_seed(5))
    cube = rewards.view(4, 6, 3)
    each = (cube - cube.nanmean(1, keepdim=True)) / (nanstd(cube, dim=1, keepdim=True) + 1e-4)
    summed = each.view(-1, 3).nansum(1)
    theirs = (summed - summed.nanmean()) / (nanstd(summed) + 1e-4)
    assert torch.allclose(objective_advantages("gdpo", rewards, torch.arange(24) // 6), theirs, atol=1e-5)


def test_a_training_normalises_the_parts_of_a_sum_as_trl_does():
    "Weights, a part that gives None, and a group in which nothing varies; a rollout without a reward learns nothing."
    from trl.trainer.utils import nanstd

    from spurious_rlvr import rewards, train
    from spurious_rlvr.core import Problem, Rollout

    drawn = torch.randn(24, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    drawn[6:12] = 0.5  # nothing varies
    values = {"first": drawn[:, 0].tolist(), "second": (100 * drawn[:, 1]).tolist()}
    values["second"][3] = None

    def first(completions, **_):
        return [values["first"][int(text)] for text in completions]

    def second(completions, **_):
        return [values["second"][int(text)] for text in completions]

    reward = 2 * rewards.as_reward(first) + 0.5 * rewards.as_reward(second)
    problems = [Problem(f"{g}?", "1", str(g)) for g in range(4)]
    made = [Rollout(1, i // 6, i % 6, str(i // 6), f"{i // 6}?", str(i), "1", [1], [-0.1], "stop") for i in range(24)]
    train.score(made, {p.id: p for p in problems}, reward, 0)
    config = train.GRPOConfig(multi_objective_aggregation="normalize_then_sum")
    train.assign_advantages(made, config, reward)
    cube = torch.stack([drawn[:, 0], 100 * drawn[:, 1]], 1)
    cube[3] = torch.nan  # our rule for None: the rollout has no reward at all
    cube = cube.view(4, 6, 2)
    each = (cube - cube.nanmean(1, keepdim=True)) / (nanstd(cube, dim=1, keepdim=True) + 1e-4)
    summed = (each.view(-1, 2) * torch.tensor([2, 0.5])).sum(1)
    theirs = ((summed - summed.nanmean()) / (nanstd(summed) + 1e-4)).nan_to_num(0)
    ours = torch.tensor([r.advantage for r in made], dtype=torch.float64)
    assert torch.allclose(ours, theirs, atol=1e-6) and ours[3] == 0 and (ours[6:12] == 0).all()
    assert train.phase_metrics(made, [], {})["dead_groups"] == 0.25
