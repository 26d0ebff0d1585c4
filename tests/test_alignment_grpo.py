"""grpo: advantages, clip, KL and means; the papers', TRL's, the loop's."""

import copy
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from llmbook import checkpoint
from llmbook.alignment.grpo import (
    NORMALISATIONS,
    RECIPES,
    STD_FLOOR,
    GroupLoss,
    PromptBatches,
    Recipe,
    clipped_objective,
    group_advantages,
    grpo_loss,
    kl_k3,
    token_mean,
)
from llmbook.alignment.sequences import IGNORED, token_logprobs
from llmbook.config import GPTConfig, TrainConfig
from llmbook.model import GPT
from llmbook.train import CHECKPOINT_NAME, train

EXACT = {"atol": 1e-6, "rtol": 1e-6}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
END, GOOD = 0, 7  # the token that ends an answer, and the one rewarded
PROMPTS = [[1, 2], [3], [4, 5, 6], [8, 9]]
SETTINGS = TrainConfig(
    steps=12,
    batch_size=2,
    learning_rate=1e-2,
    warmup_steps=1,
    eval_every=4,
    dtype="float32",
)


def fresh(seed=0, **changes):
    config = GPTConfig(
        vocab_size=12,
        context_length=16,
        n_layer=2,
        n_head=2,
        n_embd=16,
        init_std=0.1,
        **changes,
    )
    return GPT(config, generator=torch.Generator().manual_seed(seed)).eval()


def goodness(numbers, answers):
    """The share of the rewarded token in each answer."""
    return [answer.count(GOOD) / len(answer) for answer in answers]


def loss_of(recipe="dr_grpo", **changes):
    settings = {
        "group_size": 6,
        "max_new_tokens": 5,
        "stop_tokens": [END],
        "recipe": RECIPES.get(recipe, recipe),
    }
    return GroupLoss(goodness, **{**settings, **changes})


# Advantages, clip, KL


def test_advantages_worked_by_hand():
    # mean 2, deviations -1 -1 0 2: the sample variance is 6 / 3 = 2.
    rewards = torch.tensor([[1.0, 1.0, 2.0, 4.0], [0.5] * 4])
    found = group_advantages(rewards)
    expected = torch.tensor([-1.0, -1.0, 0.0, 2.0]) / (2**0.5 + STD_FLOOR)
    assert_close(found[0], expected)
    assert found[1].tolist() == [0.0] * 4
    assert group_advantages(rewards, scale=False)[0].tolist() == [-1, -1, 0, 2]


def test_the_spread_is_trls():
    utils = pytest.importorskip("trl.trainer.utils")
    source = torch.Generator().manual_seed(0)
    rewards = torch.rand(5, 8, generator=source)
    mean = rewards.mean(dim=1, keepdim=True)
    spread = utils.nanstd(rewards, dim=1, keepdim=True)
    expected = (rewards - mean) / (spread + 1e-4)
    assert_close(group_advantages(rewards), expected, **EXACT)


def test_k3_is_the_divergence_on_average_and_never_negative():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    terms = kl_k3(p.log(), q.log())
    assert (terms >= 0).all()
    exact = torch.distributions.kl_divergence(
        torch.distributions.Categorical(p), torch.distributions.Categorical(q)
    )
    assert_close((p * terms).sum(), exact)
    plain = p.log() - q.log()  # the estimate without the correction
    assert_close((p * plain).sum(), exact)
    variance = [(p * (t - exact) ** 2).sum() for t in (terms, plain)]
    assert variance[0] < variance[1]


@pytest.mark.parametrize(
    ("ratio", "advantage", "pull"),
    [
        (1.0, 2.0, 2.0),  # not clipped: the gradient is the advantage
        (1.27, 2.0, 2.0),  # above 1.2, but the upper limit is 1.28
        (1.3, 2.0, 0.0),  # good, and likelier already
        (0.5, 2.0, 2.0),  # good, and rarer than before: brought back
        (0.7, -2.0, 0.0),  # bad, and rarer already
        (1.5, -2.0, -2.0),  # bad, and likelier than before: brought back
    ],
)
def test_the_clip_holds_only_what_has_gone_the_right_way(
    ratio, advantage, pull
):
    ratio = torch.tensor(ratio, requires_grad=True)
    clipped_objective(ratio, torch.tensor(advantage), 0.2, 0.28).backward()
    assert ratio.grad.item() == pull


# The loss


@pytest.fixture(scope="module")
def batch():
    """Log-probabilities now, then and of a reference; two groups of three.

    They lie so far apart that some ratios are clipped on either side.
    """
    source = torch.Generator().manual_seed(4)
    now = -2 * torch.rand(6, 7, generator=source)
    then = now + 0.3 * torch.randn(6, 7, generator=source)
    reference = now + 0.5 * torch.randn(6, 7, generator=source)
    lengths = torch.tensor([7, 1, 4, 3, 6, 2])
    mask = torch.arange(7) < lengths[:, None]
    rewards = torch.rand(2, 3, generator=source)
    return now, then, reference, mask, group_advantages(rewards).flatten()


def trl_loss(now, then, reference, mask, advantages, kind, recipe):
    """TRL's own method, on a trainer that has only what it reads."""
    trl = pytest.importorskip("trl")
    same = {
        "gather": lambda v: v,
        "reduce": lambda v, reduction: v,
        "num_processes": 1,
    }
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(**same),
        args=SimpleNamespace(
            delta=None, use_bias_correction_kl=False, steps_per_generation=1
        ),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=recipe.kl_weight,
        loss_type=kind,
        epsilon_low=recipe.low,
        epsilon_high=recipe.high,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=9,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *given, **named: (
            now,
            torch.zeros_like(now),
            None,
        ),
    )
    ids = torch.ones_like(now).long()
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_per_token_logps": then,
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }
    loss = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
    return loss, trainer._metrics["train"]


@pytest.mark.parametrize("kl_weight", [0.0, 0.04, 1.0])
@pytest.mark.parametrize("high", [0.2, 0.28])
@pytest.mark.parametrize("kind", NORMALISATIONS)  # TRL's names, too
def test_loss_and_gradient_are_trls(batch, kind, high, kl_weight):
    now, then, reference, mask, advantages = batch
    recipe = Recipe(kind, high=high, kl_weight=kl_weight)
    mine, its = (now.clone().requires_grad_() for _ in range(2))
    found = grpo_loss(mine, then, advantages, mask, recipe, 9, reference)
    expected, metrics = trl_loss(
        its, then, reference, mask, advantages, kind, recipe
    )
    assert_close(found.loss, expected, **EXACT)
    found.loss.backward()
    expected.backward()
    assert_close(mine.grad, its.grad, **EXACT)
    assert found.clipped > 0.1  # the clip was at work
    theirs_clipped = metrics["clip_ratio/region_mean"][0]
    assert found.clipped.item() == pytest.approx(theirs_clipped)
    if kl_weight:
        assert found.kl.item() == pytest.approx(metrics["kl"][0])


def test_the_whole_batchs_mean_is_what_trl_calls_bnpo_too(batch):
    now, then, reference, mask, advantages = batch
    found = grpo_loss(now, then, advantages, mask, Recipe("dapo"), 9)
    expected, _ = trl_loss(
        now, then, reference, mask, advantages, "bnpo", Recipe("dapo")
    )
    assert_close(found.loss, expected, **EXACT)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_gradient_is_the_one_derived_by_hand(batch, normalisation):
    # By ln p: of ratio · A it is ratio · A again, of a clipped token 0, and
    # of k3 it is 1 - p_reference / p; each over its share of the mean.
    now, then, reference, mask, advantages = batch
    recipe = Recipe(normalisation, kl_weight=0.3)
    logprobs = now.clone().requires_grad_()
    grpo_loss(
        logprobs, then, advantages, mask, recipe, 9, reference
    ).loss.backward()
    lengths = mask.sum(dim=1).tolist()
    for row in range(6):
        share = {
            "grpo": 1 / (6 * lengths[row]),
            "dr_grpo": 1 / (6 * 9),
            "dapo": 1 / sum(lengths),
        }[normalisation]
        for column in range(7):
            a, ratio = advantages[row], (now - then)[row, column].exp()
            held = ratio > 1.2 if a > 0 else ratio < 0.8
            pull = 0.0 if held else -ratio * a
            drift = 1 - (reference - now)[row, column].exp()
            expected = mask[row, column] * share * (pull + 0.3 * drift)
            assert_close(logprobs.grad[row, column], expected, **EXACT)


def test_a_loss_worked_by_hand():
    # Ratios 2 and 1 of a good answer, 1 of a bad one; the 2 counts as 1.2.
    now = torch.tensor([[0.4, 0.5], [0.3, 0.9]]).log()
    then = torch.tensor([[0.2, 0.5], [0.3, 0.1]]).log()
    mask = torch.tensor([[True, True], [True, False]])
    advantages = torch.tensor([1.0, -1.0])
    values = {
        name: grpo_loss(now, then, advantages, mask, Recipe(name), 4).loss
        for name in NORMALISATIONS
    }
    assert values["grpo"].item() == pytest.approx((-2.2 / 2 + 1.0) / 2)
    assert values["dr_grpo"].item() == pytest.approx((-2.2 + 1.0) / (2 * 4))
    assert values["dapo"].item() == pytest.approx((-2.2 + 1.0) / 3)


def test_on_the_answers_own_model_it_is_the_policy_gradient():
    model, twin = fresh(), fresh()
    x, y = PromptBatches(PROMPTS, 4).at(0)
    torch.manual_seed(1)
    loss = loss_of()
    loss(model, x, y).backward()
    rollouts = loss._kept[1]
    # REINFORCE with the group's mean as its baseline, over a constant
    logprobs = token_logprobs(twin, rollouts.x, rollouts.y)
    gain = rollouts.rewards - rollouts.rewards.mean(dim=1, keepdim=True)
    (-(logprobs.sum(dim=1) * gain.flatten()).sum() / (24 * 5)).backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(one.grad, other.grad, **CLOSE)


# Answers and the loop


def test_answers_are_rewarded_with_their_own_prompts():
    asked = []

    def reward(numbers, answers):
        asked.extend(zip(numbers, answers, strict=True))
        return [len(answer) for answer in answers]

    loss = GroupLoss(reward, group_size=3, max_new_tokens=4, stop_tokens=[END])
    x, y = PromptBatches(PROMPTS, 4, seed=3).at(0)
    rollouts = loss.draw(fresh(), x, y)
    for row, (number, answer) in enumerate(asked):
        prompt = PROMPTS[number]
        ids = [*prompt, *answer]
        places = rollouts.y[row] != IGNORED
        assert rollouts.x[row, : len(ids) - 1].tolist() == ids[:-1]
        assert rollouts.y[row, places].tolist() == answer
        assert rollouts.rewards.flatten()[row] == len(answer)
        ended = answer[-1] == END
        assert len(answer) == 4 or ended
        assert END not in answer[:-1]
    assert sorted(n for n, _ in asked) == sorted([0, 1, 2, 3] * 3)
    assert [n for n, _ in asked[::3]] == [n for n, _ in asked[2::3]]


def learned(model, loss, batches, tmp_path=None, **options):
    config = {**SETTINGS.to_dict(), **options.pop("config", {})}
    return train(
        model,
        batches,
        TrainConfig(**config),
        run_dir=tmp_path,
        progress=False,
        loss_function=loss,
        **options,
    )


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("updates", [1, 2])
def test_the_loop_raises_the_reward(recipe, updates):
    model, seen = fresh(), []
    loss = loss_of(recipe, reference=copy.deepcopy(model))
    batches = PromptBatches(PROMPTS, 4, updates=updates)
    learned(
        model,
        loss,
        batches,
        config={"steps": 24},
        callbacks=[lambda *now: seen.append({**loss.measured})],
    )
    rewards = [now["reward"] for now in seen[1:]]  # none before step one
    assert sum(rewards[-6:]) / 6 > sum(rewards[:6]) / 6 + 0.3
    if updates == 2:
        assert rewards[0::2] == rewards[1::2]  # the same answers twice
        assert max(now["clipped"] for now in seen[2::2]) > 0
    assert all(now["clipped"] == 0 for now in seen[1::updates])
    if RECIPES[recipe].kl_weight:
        assert seen[1]["kl"] == pytest.approx(0, abs=1e-6)
        assert seen[-1]["kl"] > 0.01


@pytest.mark.parametrize("updates", [1, 2])
def test_a_resumed_run_has_the_same_bits(tmp_path, updates):
    def start():
        model = fresh()
        loss = loss_of("grpo", reference=copy.deepcopy(model))
        return model, loss, PromptBatches(PROMPTS, 2, updates=updates)

    class Stopped(Exception):
        pass

    def stop(steps, model, history):
        if steps == 7:
            raise Stopped

    whole = start()
    learned(*whole)
    with pytest.raises(Stopped):
        learned(*start(), tmp_path, callbacks=[stop])
    resumed = start()
    history = learned(*resumed, tmp_path, resume=True)
    assert history.steps == 12
    for one, other in zip(
        whole[0].parameters(), resumed[0].parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_no_run_is_saved_between_two_updates(tmp_path):
    class Stopped(Exception):
        pass

    def stop(steps, model, history):
        if steps == 9:
            raise Stopped

    def start():
        return fresh(), loss_of(), PromptBatches(PROMPTS, 2, updates=2)

    odd, whole, resumed = {"eval_every": 5}, start(), start()
    learned(*whole, config=odd)
    with pytest.raises(Stopped):
        learned(*start(), tmp_path, callbacks=[stop], config=odd)
    kept = checkpoint.load(tmp_path / CHECKPOINT_NAME).state["history"]
    assert len(kept["loss"]) == 6  # due after 5
    learned(*resumed, tmp_path, resume=True, config=odd)
    for one, other in zip(
        whole[0].parameters(), resumed[0].parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_answers_that_another_batch_came_between_are_missed():
    loss, batches = loss_of(), PromptBatches(PROMPTS, 2, updates=2)
    model = fresh()
    for step in (0, 2):
        loss(model, *batches.at(step))
    with pytest.raises(ValueError, match="another batch came between"):
        loss(model, *batches.at(1))


def test_bfloat16_draws_and_learns_too():
    history = learned(
        fresh(),
        loss_of(),
        PromptBatches(PROMPTS, 2),
        config={"dtype": "bfloat16", "steps": 2},
    )
    assert history.steps == 2


def test_what_is_measured_is_what_was_drawn():
    loss = loss_of(group_size=2)
    x, y = PromptBatches(PROMPTS, 4).at(0)
    drawn = []

    def reward(numbers, answers):
        drawn.extend(answers)
        return [1.0, 1.0, 0.0, 3.0, 2.0, 2.0, 0.0, -1.0]

    loss.reward = reward
    loss(fresh(), x, y)
    length = sum(map(len, drawn)) / 8
    expected = {"reward": 1.0, "length": length, "kl": 0.0}
    assert loss.measured == {**expected, "clipped": 0.0, "equal": 0.5}


def test_the_references_dropout_is_off():
    reference = fresh(1, dropout=0.5).train()
    loss = loss_of("grpo", reference=reference)
    rollouts = loss.draw(fresh(), *PromptBatches(PROMPTS, 2).at(0))
    expected = token_logprobs(reference.eval(), rollouts.x, rollouts.y)
    assert_close(rollouts.reference, expected, **CLOSE)
    assert not rollouts.reference.requires_grad


def test_the_models_dropout_is_off_too_and_on_again_afterwards():
    model = fresh(dropout=0.5).train()
    loss = loss_of("grpo", reference=fresh(dropout=0.5))
    loss(model, *PromptBatches(PROMPTS, 2).at(0)).backward()
    assert loss.measured["kl"] == pytest.approx(0, abs=1e-9)
    assert model.training
    assert model.head_weight.grad.abs().sum() > 0


def test_the_reference_stays_as_it_is():
    reference = fresh(1).train()
    before = copy.deepcopy(reference.state_dict())
    loss = loss_of("grpo", reference=reference)
    learned(fresh(), loss, PromptBatches(PROMPTS, 2), config={"steps": 2})
    after = reference.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert reference.training
    assert all(p.grad is None for p in reference.parameters())


# Errors


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at least two answers"):
        group_advantages(torch.ones(3, 1))
    with pytest.raises(ValueError, match="finite"):
        group_advantages(torch.tensor([[1.0, float("nan")]]))
    ones = torch.ones(1, 1)
    with pytest.raises(ValueError, match="grpo, dr_grpo, dapo"):
        token_mean(ones, ones, "bnpo", 1)
    with pytest.raises(ValueError, match="no reference"):
        loss_of("grpo")
    with pytest.raises(ValueError, match="no reference"):
        grpo_loss(ones, ones, ones[0], ones, RECIPES["grpo"], 1)
    with pytest.raises(ValueError, match="updates is 0"):
        PromptBatches(PROMPTS, 2, updates=0)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_leaving_the_reference_is_never_rewarded(weight):
    recipe = RECIPES["grpo"]._replace(kl_weight=weight)
    with pytest.raises(ValueError, match="kl_weight is"):
        loss_of(recipe=recipe, reference=fresh())


@pytest.mark.parametrize(
    "choice", [{"group_size": 1}, {"group_size": 0}, {"max_new_tokens": 0}]
)
def test_nothing_is_drawn_where_there_is_nothing_to_compare(choice):
    with pytest.raises(ValueError, match="at least two answers"):
        loss_of(**choice)


def test_a_reward_function_that_leaves_one_out_is_refused():
    loss = loss_of()
    loss.reward = lambda numbers, answers: [1.0] * (len(answers) - 1)
    with pytest.raises(ValueError, match="11 numbers for 12 answers"):
        loss(fresh(), *PromptBatches(PROMPTS, 2).at(0))
