"""dpo: the losses of the papers, of TRL, and through the training loop."""

import math
from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from llmbook.alignment.dpo import (
    KINDS,
    PreferenceBatches,
    dpo_loss,
    implicit_rewards,
    ipo_loss,
    preference_accuracy,
    preference_loss,
    preference_outcome,
    robust_loss,
    sigmoid_loss,
)
from llmbook.alignment.sequences import (
    IGNORED,
    Preference,
    answer_rows,
    document_logprobs,
    numbers_at,
    preference_logprobs,
    sequence_logprobs,
    token_logprobs,
)
from llmbook.config import GPTConfig, TrainConfig
from llmbook.hub import gpt_from_tensors
from llmbook.model import GPT
from llmbook.train import evaluate, train
from tests.peers import peer_gpt2

SHAPE = {"vocab_size": 31, "context_length": 16, "n_head": 2, "n_embd": 16}
EXACT = {"atol": 1e-6, "rtol": 1e-6}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SETTINGS = TrainConfig(
    steps=12,
    batch_size=4,
    learning_rate=3e-3,
    warmup_steps=2,
    eval_every=4,
    dtype="float32",
)


def fresh(seed=0, **changes):
    """A model whose weights are wide enough for opinions of its own."""
    config = GPTConfig(**{**SHAPE, "n_layer": 2, "init_std": 0.3, **changes})
    return GPT(config, generator=torch.Generator().manual_seed(seed)).eval()


def drawn(count, seed=0):
    """Preferences of many lengths."""
    source = torch.Generator().manual_seed(seed)

    def row():
        n = int(torch.randint(1, 6, (), generator=source))
        return torch.randint(31, (n,), generator=source).tolist()

    return [Preference(row(), row(), row()) for _ in range(count)]


def batch_of(preferences, reference):
    """All preferences as one batch, in their order."""
    batches = PreferenceBatches(preferences, reference, len(preferences))
    order = numbers_at(0, len(preferences), len(preferences))
    back = torch.tensor(order).argsort()
    return tuple(part[back] for part in batches.at(0))


@torch.no_grad()
def logprob_alone(model, prompt, answer):
    """The definition: one text, one pass, one token after the other."""
    logits, _ = model(torch.tensor([[*prompt, *answer]]))
    log_p = logits[0].log_softmax(-1)
    first = len(prompt) - 1
    return sum(log_p[first + n, token] for n, token in enumerate(answer))


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


# Sequences


def test_an_answers_log_probability_is_the_one_it_has_alone():
    model, preferences = fresh(), drawn(9)
    pairs = [(p.prompt, p.chosen) for p in preferences]
    x, y = answer_rows(pairs)
    found = token_logprobs(model, x, y)
    assert (found[y == IGNORED] == 0).all()
    sums = sequence_logprobs(found, y != IGNORED)
    means = sequence_logprobs(found, y != IGNORED, per="token")
    for pair, total, mean in zip(pairs, sums, means, strict=True):
        expected = logprob_alone(model, *pair)
        assert_close(total, expected, **CLOSE)
        assert_close(mean, expected / len(pair[1]), **CLOSE)


def test_targets_are_those_that_the_model_learns_from():
    model = fresh()
    x, y = answer_rows([(p.prompt, p.chosen) for p in drawn(7)])
    _, loss = model(x, y)
    total = token_logprobs(model, x, y).sum()
    assert_close(-total / (y != IGNORED).sum(), loss, **CLOSE)


def test_packed_answers_have_the_log_probabilities_they_have_alone():
    model = fresh()
    pairs = [([1, 2], [3, 4, 5]), ([6], [7]), ([8, 9, 10], [11, 12])]
    rows = [answer_rows([pair]) for pair in pairs]
    packed = [rows[0], rows[1]], [rows[2]]  # two texts, and one with padding
    x, y = torch.zeros(2, 5).long(), torch.full((2, 5), IGNORED)
    documents = torch.full((2, 5), -1)
    for place, texts in enumerate(packed):
        end = 0
        for number, (ids, targets) in enumerate(texts, 1):
            span = slice(end, end := end + ids.shape[1])
            x[place, span], y[place, span] = ids[0], targets[0]
            documents[place, span] = number
    found = token_logprobs(model, x, y, documents)
    totals = document_logprobs(found, y != IGNORED, documents)
    expected = [logprob_alone(model, *pair) for pair in pairs]
    wanted = torch.tensor([expected[:2], [expected[2], 0.0]])
    assert_close(totals, wanted, **CLOSE)
    means = document_logprobs(found, y != IGNORED, documents, per="token")
    assert_close(means, wanted / torch.tensor([[3, 1], [2, 1]]), **CLOSE)


def test_the_references_log_probabilities_are_those_of_training():
    model, preferences = fresh(), drawn(6)
    table = preference_logprobs(model, preferences)
    x, y = batch_of(preferences, table)
    rewards = preference_outcome(model, x, y, beta=1.0).rewards
    assert_close(rewards, torch.zeros(6, 2), **CLOSE)
    for p, row in zip(preferences, table, strict=True):
        expected = [logprob_alone(model, p.prompt, a) for a in p.answers]
        assert_close(row, torch.stack(expected), **CLOSE)
    assert not table.requires_grad


def test_every_preference_comes_once_an_epoch():
    epochs = [
        sorted(n for step in steps for n in numbers_at(step, 10, 3, seed=5))
        for steps in (range(3), range(3, 6))
    ]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert numbers_at(0, 10, 3, seed=5) != numbers_at(3, 10, 3, seed=5)
    assert numbers_at(4, 10, 3, seed=5) == numbers_at(4, 10, 3, seed=5)


# Losses


def test_a_pair_worked_by_hand():
    # ratios: chosen 1, rejected -2; with beta 0.5 rewards 0.5 and -1.
    policy, reference = torch.tensor([[-9.0, -8.0]]), torch.tensor([[-10, -6]])
    found = dpo_loss(policy, reference.float(), beta=0.5)
    assert found.rewards.tolist() == [[0.5, -1.0]]
    assert found.margins.item() == 1.5 and found.accuracy == 1
    assert found.loss.item() == pytest.approx(-log_sigmoid(1.5))
    ipo = dpo_loss(policy, reference.float(), beta=0.5, kind="ipo")
    assert ipo.loss.item() == pytest.approx((3 - 1) ** 2)


def test_conservative_dpo_is_a_cross_entropy_with_soft_labels():
    margins = torch.linspace(-4, 4, 9)
    logits = torch.stack([margins, torch.zeros(9)], dim=1)
    soft = torch.tensor([0.8, 0.2]).expand(9, 2)
    expected = torch.nn.functional.cross_entropy(
        logits, soft, reduction="none"
    )
    assert_close(sigmoid_loss(margins, label_smoothing=0.2), expected)


def test_robust_dpo_is_on_average_dpo_on_right_labels():
    margins = torch.linspace(-4, 4, 9)
    right = robust_loss(margins, label_smoothing=0.3)
    wrong = robust_loss(-margins, label_smoothing=0.3)
    assert_close(0.7 * right + 0.3 * wrong, sigmoid_loss(margins))


def test_dpo_never_has_enough_and_ipo_does():
    margins = torch.tensor([5.0, 8.0], requires_grad=True)
    sigmoid_loss(margins).sum().backward()
    assert (margins.grad < 0).all()
    margins = torch.tensor([0.4, 0.5, 0.6], requires_grad=True)
    ipo_loss(margins, beta=0.1).sum().backward()  # enough: 1 / 2
    assert margins.grad.sign().tolist() == [-1, 0, 1]


def test_the_gradient_is_the_papers():
    # Rafailov et al. 2023, section 4: beta * sigma(-margin) on each side.
    policy = torch.tensor([[-3.0, -2.0], [-1.0, -5.0]], requires_grad=True)
    reference, beta = torch.tensor([[-3.5, -3.0], [-2.0, -4.0]]), 0.3
    dpo_loss(policy, reference, beta).loss.backward()
    margins = implicit_rewards(policy.detach(), reference, beta)
    weight = beta * torch.sigmoid(margins[:, 1] - margins[:, 0]) / 2
    assert_close(policy.grad, torch.stack([-weight, weight], dim=1))


# TRL


def trl_loss(logprobs, mask, reference, kinds, weights, beta, smoothing):
    """What TRL's trainer makes of log-probabilities (2B, T), and metrics.

    Its batches hold all chosen answers before all rejected ones; its own
    method is called, on a trainer that has only what the method reads.
    """
    trl = pytest.importorskip("trl")
    same = {"gather": lambda v: v, "gather_for_metrics": lambda v: v}
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(device="cpu", **same),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=kinds,
        loss_weights=weights,
        beta=beta,
        label_smoothing=smoothing,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    zeros = torch.zeros_like(logprobs)
    outputs = SimpleNamespace(
        log_probs=logprobs,
        entropy=zeros,
        mean_logits=zeros,
        is_top1=zeros.bool(),
    )
    first = torch.zeros(len(mask), 1).long()  # no token comes before it
    whole = torch.cat([first, mask.long()], dim=1)
    inputs = {
        "input_ids": torch.ones_like(whole),
        "attention_mask": torch.ones_like(whole),
        "completion_mask": whole,
        "ref_chosen_logps": reference[:, 0],
        "ref_rejected_logps": reference[:, 1],
    }
    loss = trl.DPOTrainer._compute_loss(
        trainer, lambda **given: outputs, inputs, False
    )
    return loss, trainer._metrics["train"]


@pytest.fixture(scope="module")
def scored():
    """A batch, its tokens' log-probabilities and mask in TRL's order."""
    preferences = drawn(8, seed=3)
    table = preference_logprobs(fresh(1), preferences)
    x, y = batch_of(preferences, table)
    targets = y[..., 1:].long().transpose(0, 1).flatten(0, 1)
    ids = x.transpose(0, 1).flatten(0, 1)
    found = token_logprobs(fresh(2), ids, targets)
    return x, y, table, found, targets != IGNORED


@pytest.mark.parametrize(
    ("ours", "kinds", "smoothing"),
    [
        ({}, ["sigmoid"], 0.0),
        ({"kind": "robust", "label_smoothing": 0.2}, ["robust"], 0.2),
        ({"kind": "ipo", "per": "token"}, ["ipo"], 0.0),
        ({"per": "token"}, ["sigmoid_norm"], 0.0),
        ({"sft": 0.7}, ["sigmoid", "sft"], 0.0),
    ],
)
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_losses_gradients_and_rewards_are_trls(
    scored, ours, kinds, smoothing, beta
):
    x, y, table, found, mask = scored
    theirs = found.detach().requires_grad_()
    weights = [1.0, 0.7][: len(kinds)]
    expected, metrics = trl_loss(
        theirs, mask, table, kinds, weights, beta, smoothing
    )
    expected.backward()
    model = fresh(2)
    outcome = preference_outcome(model, x, y, beta=beta, **ours)
    assert_close(outcome.loss, expected, **EXACT)
    if "per" not in ours:  # TRL reports whole answers' rewards always
        values = {
            "rewards/chosen": outcome.rewards[:, 0].mean(),
            "rewards/rejected": outcome.rewards[:, 1].mean(),
            "rewards/margins": outcome.margins.mean(),
            "rewards/accuracies": outcome.accuracy,
        }
        for name, value in values.items():
            assert value.item() == pytest.approx(metrics[name][0], abs=1e-5)
    outcome.loss.backward()
    other = fresh(2)
    targets = y[..., 1:].long().transpose(0, 1).flatten(0, 1)
    again = token_logprobs(other, x.transpose(0, 1).flatten(0, 1), targets)
    again.backward(theirs.grad)
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(mine.grad, its.grad, **CLOSE)


def test_where_trl_smooths_no_labels_we_do(scored):
    x, y, table, found, mask = scored
    plain, _ = trl_loss(found, mask, table, ["sigmoid"], [1.0], 0.1, 0.3)
    model = fresh(2)
    assert_close(preference_loss(model, x, y), plain, **EXACT)
    smooth = preference_loss(model, x, y, label_smoothing=0.3)
    assert abs(smooth - plain) > 0.01


def test_where_trl_averages_ipo_per_token_the_paper_does_not(scored):
    x, y, table, found, mask = scored
    averaged, _ = trl_loss(found, mask, table, ["ipo"], [1.0], 0.1, 0.0)
    chosen, rejected = (found * mask).sum(1).view(2, -1) - table.T
    paper = ((chosen - rejected - 1 / (2 * 0.1)) ** 2).mean()  # its eq. 17
    model = fresh(2)
    assert_close(
        preference_loss(model, x, y, kind="ipo"), paper, rtol=1e-5, atol=1e-5
    )
    assert abs(averaged - paper) > 1


def test_log_probabilities_are_those_of_trls_head():
    theirs = peer_gpt2(vocab_size=31, initializer_range=0.3)
    utils = pytest.importorskip("trl.trainer.utils")
    ours = gpt_from_tensors(theirs.state_dict(), fresh().config)
    utils.add_fused_lm_head(theirs)
    texts = [(p.prompt, p.chosen) for p in drawn(5)]
    x, y = answer_rows(texts)
    ends = [[*prompt, *answer] for prompt, answer in texts]
    ids = torch.zeros(len(x), x.shape[1] + 1).long()
    for row, text in enumerate(ends):
        ids[row, : len(text)] = torch.tensor(text)
    labels = torch.cat([torch.full((len(x), 1), IGNORED), y], dim=1)
    expected = theirs(ids, labels=labels, fused_lm_head=True).log_probs
    assert_close(token_logprobs(ours, x, y), expected, **CLOSE)


# Through the loop


def run(model, batches, tmp_path=None, **options):
    config = TrainConfig(**{**SETTINGS.to_dict(), **options.pop("config", {})})
    return train(
        model, batches, config, run_dir=tmp_path, progress=False, **options
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_learns_preferences(kind):
    preferences, model = drawn(8, seed=1), fresh()
    table = preference_logprobs(model, preferences)
    batches = PreferenceBatches(preferences, table, batch_size=4)
    loss = partial(preference_loss, kind=kind, beta=0.5)
    history = run(
        model,
        batches,
        loss_function=loss,
        validation=batches,
        config={"eval_batches": 2},
    )
    (_, before), *_, (_, after) = history.evaluations
    assert after < before
    if kind != "ipo":
        assert before == pytest.approx(math.log(2), abs=1e-4)
    right = evaluate(model, batches, 2, loss_function=preference_accuracy)
    assert right > 0.8


def test_a_resumed_run_has_the_same_bits(tmp_path):
    preferences = drawn(9, seed=1)
    table = preference_logprobs(fresh(), preferences)
    batches = PreferenceBatches(preferences, table, batch_size=4)
    options = {"loss_function": partial(preference_loss, sft=0.1)}
    whole = fresh()
    run(whole, batches, **options)

    class Stopped(Exception):
        pass

    def stop(steps, model, history):
        if steps == 6:
            raise Stopped

    with pytest.raises(Stopped):
        run(fresh(), batches, tmp_path, callbacks=[stop], **options)
    resumed = fresh()
    history = run(resumed, batches, tmp_path, resume=True, **options)
    assert history.steps == 12
    for one, other in zip(
        whole.parameters(), resumed.parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_the_largest_token_id_survives_as_a_float():
    rows = [Preference([1], [2**24], [2**24 - 1])]
    _, y = PreferenceBatches(rows, torch.zeros(1, 2), 1).at(0)
    assert y[0, :, 1].long().tolist() == [2**24, 2**24 - 1]
    rows = [Preference([1], [2**24 + 1], [2])]
    with pytest.raises(ValueError, match="float32"):
        PreferenceBatches(rows, torch.zeros(1, 2), 1).at(0)


# Errors


def test_choices_that_are_none_are_refused():
    pair = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="sigmoid, robust, ipo"):
        dpo_loss(pair, pair, kind="hinge")
    with pytest.raises(ValueError, match="no smoothing for ipo"):
        dpo_loss(pair, pair, kind="ipo", label_smoothing=0.1)
    for kind in ("sigmoid", "robust"):
        with pytest.raises(ValueError, match=r"below 0\.5"):
            dpo_loss(pair, pair, kind=kind, label_smoothing=0.5)
    with pytest.raises(ValueError, match="above 0"):
        dpo_loss(pair, pair, beta=0.0)
    with pytest.raises(ValueError, match=r"expected \(B, 2\)"):
        dpo_loss(pair, torch.zeros(2, 2))
    with pytest.raises(ValueError, match="'answer', 'token'"):
        sequence_logprobs(pair, pair.bool(), per="byte")


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at least one token each"):
        answer_rows([([1], [])])
    with pytest.raises(ValueError, match="at least one pair"):
        answer_rows([])
    with pytest.raises(ValueError, match="expected one a token"):
        token_logprobs(fresh(), torch.zeros(1, 2).long(), torch.zeros(1, 3))
    rows = drawn(3)
    with pytest.raises(ValueError, match="preference_logprobs"):
        PreferenceBatches(rows, torch.zeros(2, 2), 1)
    with pytest.raises(ValueError, match="Take smaller batches"):
        PreferenceBatches(rows, torch.zeros(3, 2), 4)
