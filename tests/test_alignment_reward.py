"""reward: one number a text, and the loss that TRL and the papers have."""

import math
from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from llmbook.alignment.reward import (
    Classifier,
    LabelledBatches,
    RewardBatches,
    RewardModel,
    bradley_terry_loss,
    classifier_loss,
    padded_texts,
    pair_rewards,
    reward_accuracy,
    reward_loss,
)
from llmbook.alignment.sequences import Preference
from llmbook.config import GPTConfig, TrainConfig
from llmbook.hub import gpt_from_tensors
from llmbook.model import GPT
from llmbook.train import evaluate, train
from tests.peers import peer_gpt2

EXACT = {"atol": 1e-6, "rtol": 1e-6}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SETTINGS = TrainConfig(
    steps=16,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=2,
    eval_every=4,
    eval_batches=2,
    dtype="float32",
)
# The chosen answers have a 7 in them.
PREFERENCES = [
    Preference([1, 2], [7, n], [n], margin=0.1 * n) for n in range(8, 16)
]


def gpt(seed=0):
    config = GPTConfig(
        vocab_size=31,
        context_length=16,
        n_layer=2,
        n_head=2,
        n_embd=16,
        init_std=0.3,
    )
    return GPT(config, generator=torch.Generator().manual_seed(seed)).eval()


def judge(seed=0):
    """A reward model with opinions already."""
    model = RewardModel(gpt(seed))
    source = torch.Generator().manual_seed(seed)
    model.score.weight.data.normal_(0.0, 0.5, generator=source)
    return model


def trl_loss(rewards, margin, centring):
    """What TRL's trainer makes of rewards (B, 2), and its metrics."""
    trl = pytest.importorskip("trl")
    same = {"gather": lambda v: v, "gather_for_metrics": lambda v: v}
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(**same),
        args=SimpleNamespace(center_rewards_coefficient=centring),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"attention_mask": torch.ones(1)}
    if margin is not None:
        inputs["margin"] = margin
    logits = rewards.T.reshape(-1, 1)  # all chosen, then all rejected
    loss = trl.RewardTrainer.compute_loss(
        trainer, lambda **given: SimpleNamespace(logits=logits), inputs
    )
    return loss, trainer._metrics["train"]


@pytest.mark.parametrize("centring", [None, 0.01, 2.0])
@pytest.mark.parametrize("margin", [None, torch.tensor([0.0, 0.5, 3.0, 1.0])])
def test_loss_and_gradient_are_trls(margin, centring):
    source = torch.Generator().manual_seed(0)
    ours = torch.randn(4, 2, generator=source).mul(3).requires_grad_()
    theirs = ours.detach().requires_grad_()
    expected, _ = trl_loss(theirs, margin, centring)
    found = bradley_terry_loss(
        ours, 0.0 if margin is None else margin, centring or 0.0
    )
    assert_close(found, expected, **EXACT)
    found.backward()
    expected.backward()
    assert_close(ours.grad, theirs.grad, **EXACT)


def test_a_pair_worked_by_hand():
    # 2 - 0.5 - 0.5 = 1; the two add up to 2.5, its square is 6.25.
    rewards = torch.tensor([[2.0, 0.5]])
    expected = math.log(1 + math.exp(-1)) + 0.1 * 6.25
    assert bradley_terry_loss(rewards, 0.5, 0.1).item() == pytest.approx(
        expected
    )


def test_the_loss_is_a_cross_entropy_between_two_rewards():
    rewards = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    first = torch.zeros(6).long()
    assert_close(bradley_terry_loss(rewards), F.cross_entropy(rewards, first))


def test_the_level_of_rewards_is_held_by_centring_alone():
    rewards = torch.tensor([[1.0, 0.5], [0.2, 0.4]], requires_grad=True)
    bradley_terry_loss(rewards).backward()
    assert_close(rewards.grad.sum(), torch.tensor(0.0), atol=1e-7, rtol=0)
    rewards.grad = None
    bradley_terry_loss(rewards, centring=0.1).backward()
    # d/dc of 0.1 (r + r' + 2c)^2 at c = 0: 0.4 times the mean of r + r'
    assert_close(rewards.grad.sum(), torch.tensor(0.4 * 1.05))


def test_a_texts_reward_is_the_one_it_has_alone():
    model = judge()
    texts = [[3], [4, 5, 6, 7], [8, 9], [10] * 16]
    found = model(*padded_texts(texts))
    for text, reward in zip(texts, found, strict=True):
        hidden = model.gpt.hidden(torch.tensor([text]))[0, -1]  # (C,)
        assert_close(reward, hidden @ model.score.weight[0], **CLOSE)


def test_a_batch_holds_whole_texts_and_their_margins():
    x, y = RewardBatches(PREFERENCES, 8).at(0)
    model = judge()
    found = pair_rewards(model, x, y)
    for texts, values, rewards in zip(x, y, found, strict=True):
        n = int(texts[1, 2])
        p = PREFERENCES[n - 8]
        assert values[2].item() == pytest.approx(p.margin)
        for answer, reward in zip(p.answers, rewards, strict=True):
            alone = model(*padded_texts([[*p.prompt, *answer]]))[0]
            assert_close(reward, alone, **CLOSE)
    margins = y[:, 2]
    expected = bradley_terry_loss(found, margins, 0.3)
    assert_close(reward_loss(model, x, y, centring=0.3), expected)


def test_rewards_equal_those_of_transformers_and_trls_loss():
    theirs = peer_gpt2(
        "GPT2ForSequenceClassification",
        vocab_size=31,
        initializer_range=0.3,
        num_labels=1,
        pad_token_id=0,
    )
    weights = theirs.transformer.state_dict()
    ours = RewardModel(
        gpt_from_tensors(
            {f"transformer.{name}": w for name, w in weights.items()},
            gpt().config,
        )
    )
    ours.score.load_state_dict(theirs.score.state_dict())
    x, y = RewardBatches(PREFERENCES, 8).at(0)
    rows = x.flatten(0, 1)
    expected = theirs(rows, attention_mask=(rows != 0).long()).logits
    expected = expected.view(-1, 2)
    found = pair_rewards(ours, x, y)
    assert_close(found, expected, **CLOSE)
    loss, metrics = trl_loss(expected, y[:, 2], 0.01)
    assert_close(reward_loss(ours, x, y, centring=0.01), loss, **CLOSE)
    accuracy = reward_accuracy(ours, x, y).item()
    assert accuracy == pytest.approx(metrics["accuracy"][0])


def test_a_new_head_prefers_nothing():
    x, y = RewardBatches(PREFERENCES, 8).at(0)
    y[:, 2] = 0
    assert reward_loss(RewardModel(gpt()), x, y).item() == pytest.approx(
        math.log(2)
    )
    x, y = LabelledBatches([[1, 2], [3]], [0, 2], 2).at(0)
    loss = classifier_loss(Classifier(gpt(), 3), x, y)
    assert loss.item() == pytest.approx(math.log(3))


def learned(model, batches, loss_function, tmp_path=None, **options):
    return train(
        model,
        batches,
        SETTINGS,
        run_dir=tmp_path,
        progress=False,
        loss_function=loss_function,
        **options,
    )


def test_the_loop_learns_a_reward():
    batches = RewardBatches(PREFERENCES, 4)
    loss = partial(reward_loss, centring=0.01)
    model = RewardModel(gpt())
    history = learned(model, batches, loss, validation=batches)
    (_, before), *_, (_, after) = history.evaluations
    assert after < before / 2
    assert evaluate(model, batches, 2, loss_function=reward_accuracy) == 1


def test_the_loop_learns_classes():
    texts = [[n, 7] if n % 2 else [n, 8] for n in range(9, 21)]
    labels = [n % 2 for n in range(9, 21)]
    batches = LabelledBatches(texts, labels, 4)
    model = Classifier(gpt(), 2)
    history = learned(model, batches, classifier_loss, validation=batches)
    (_, before), *_, (_, after) = history.evaluations
    assert before == pytest.approx(math.log(2))
    assert after < 0.3
    assert model(*padded_texts(texts)).argmax(dim=1).tolist() == labels


def test_a_resumed_run_has_the_same_bits(tmp_path):
    batches = RewardBatches(PREFERENCES, 4)
    whole, resumed = RewardModel(gpt()), RewardModel(gpt())
    learned(whole, batches, reward_loss)

    class Stopped(Exception):
        pass

    def stop(steps, model, history):
        if steps == 7:
            raise Stopped

    with pytest.raises(Stopped):
        learned(
            RewardModel(gpt()),
            batches,
            reward_loss,
            tmp_path,
            callbacks=[stop],
        )
    learned(resumed, batches, reward_loss, tmp_path, resume=True)
    for one, other in zip(
        whole.parameters(), resumed.parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at least one token in each"):
        padded_texts([[1], []])
    with pytest.raises(ValueError, match="one label a text"):
        LabelledBatches([[1], [2]], [0], 1)
    with pytest.raises(ValueError, match="Take smaller batches"):
        RewardBatches(PREFERENCES, 9)
