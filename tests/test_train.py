"""The training loop, held against torch's own parts and against itself."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from llmbook import checkpoint, runtime
from llmbook.checkpoint import CheckpointError
from llmbook.corpus.batches import Batches
from llmbook.optim import cosine_schedule, set_learning_rate
from llmbook.train import (
    CHECKPOINT_NAME,
    DivergedError,
    History,
    check_same_run,
    document_loss,
    evaluate,
    make_optimizer,
    seed_step,
    token_losses,
    train,
)
from tests.tiny_run import SETTINGS, changed, make_batches, make_model


def torch_loop(model, batches, config):
    """The same training from torch's own parts alone."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
    )
    losses = []
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine_schedule(step, config)
        x, y = batches.at(step)
        logits = model(x)[0]
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_loop_equals_one_made_of_torch_parts():
    mine, theirs = make_model(), make_model()
    history = train(mine, make_batches(), SETTINGS, progress=False)
    expected = torch_loop(theirs, make_batches(), SETTINGS)
    torch.testing.assert_close(history.loss, expected, atol=1e-5, rtol=0)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=0)


def test_accumulation_equals_the_big_batch():
    class Halves:
        def __init__(self, batches):
            self.batches = batches

        def at(self, part):
            x, y = self.batches.at(part // 2)
            rows = slice(0, 2) if part % 2 == 0 else slice(2, 4)
            return x[rows], y[rows]

    big, small = make_model(), make_model()
    train(big, make_batches(4), SETTINGS, progress=False)
    halves = changed(batch_size=2, accumulate=2)
    history = train(small, Halves(make_batches(4)), halves, progress=False)
    for p, q in zip(big.parameters(), small.parameters(), strict=True):
        # AdamW divides rounding by rounding where a gradient is all but 0.
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)
    assert history.tokens == SETTINGS.tokens(8) == halves.tokens(8)


def test_what_muon_leaves_to_adamw_learns_at_its_own_rate():
    begun, moved = make_model(), []
    for scale in (1.0, 4.0):
        model = make_model()
        one = changed(steps=1, optimizer="muon", adamw_scale=scale)
        train(model, make_batches(), one, progress=False)
        pairs = zip(model.named_parameters(), begun.parameters(), strict=True)
        moved.append({name: (p - q).detach() for (name, p), q in pairs})
    slow, fast = moved
    for name, step in slow.items():
        inner = name.startswith("blocks.") and step.dim() == 2
        expected = step if inner else 4 * step
        torch.testing.assert_close(fast[name], expected, atol=1e-6, rtol=1e-3)


def test_a_checkpoint_from_before_the_rates_had_scales_goes_on(tmp_path):
    model = make_model()
    muon = changed(optimizer="muon")
    train(model, make_batches(), muon, run_dir=tmp_path, progress=False)
    file = tmp_path / CHECKPOINT_NAME
    saved = checkpoint.load(file)
    for group in saved.state["optimizer"]["groups"]:
        group.pop("scale", None)
    optimizer = make_optimizer(model, muon)
    checkpoint.restore(saved, model, optimizer)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    state = {"train_config": muon.to_dict(), "data": 3}
    del state["train_config"]["adamw_scale"]
    check_same_run(state, muon, 3)
    with pytest.raises(CheckpointError, match="adamw_scale"):
        check_same_run(state, changed(optimizer="muon", adamw_scale=2.0), 3)
    state["train_config"]["mystery"] = 1
    with pytest.raises(CheckpointError, match="newer llmbook"):
        check_same_run(state, muon, 3)


def test_the_first_loss_is_near_that_of_a_uniform_guess():
    loss = evaluate(make_model(), make_batches(), 4, dtype="float32")
    assert abs(loss - math.log(23)) < 0.1


def test_a_repeating_text_is_learned():
    batches = Batches(list(range(23)) * 40, 8, 4)
    settings = changed(steps=120, learning_rate=1e-2)
    history = train(make_model(), batches, settings, progress=False)
    assert history.loss[-1] < 0.2 * history.loss[0]


def test_history_records_every_step_and_survives_json():
    history = train(
        make_model(),
        make_batches(),
        SETTINGS,
        validation=make_batches(seed=1),
        progress=False,
    )
    assert history.steps == 12 == len(history.gradient_norm)
    assert [step for step, _ in history.evaluations] == [0, 4, 8, 12]
    assert history.learning_rate == [
        cosine_schedule(step, SETTINGS) for step in range(12)
    ]
    assert History.from_dict(history.to_dict()) == history
    assert history.tokens_per_second > 0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stop", [4, 8])
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(
    stop, optimizer, tmp_path
):
    settings = changed(optimizer=optimizer)

    def run(model, folder, resume=False, callbacks=()):
        return train(
            model,
            make_batches(),
            settings,
            validation=make_batches(seed=1),
            run_dir=folder,
            resume=resume,
            callbacks=callbacks,
            progress=False,
        )

    def power_cut(step, model, history):
        torch.rand(step + 1)  # a callback's own draws change nothing
        if step == stop + 1:
            raise KeyboardInterrupt

    whole = make_model(dropout=0.2)
    expected = run(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(make_model(dropout=0.2), tmp_path / "cut", callbacks=[power_cut])
    resumed = make_model(seed=99, dropout=0.2)
    torch.manual_seed(1234)
    history = run(resumed, tmp_path / "cut", resume=True)
    for p, q in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)
    assert history.loss == expected.loss
    assert history.evaluations == expected.evaluations
    assert history.gradient_norm == expected.gradient_norm
    one, two = (
        (tmp_path / name / CHECKPOINT_NAME) for name in ("whole", "cut")
    )
    a, b = checkpoint.load(one), checkpoint.load(two)
    assert a.optimizer.keys() == b.optimizer.keys()
    assert all(
        torch.equal(a.optimizer[k], b.optimizer[k]) for k in b.optimizer
    )


def test_dropout_draws_differ_from_step_to_step_and_repeat_with_the_seed():
    def draws(seed, step):
        seed_step(changed(seed=seed), step)
        return torch.rand(4).tolist()

    assert draws(0, 3) == draws(0, 3)
    assert draws(0, 3) != draws(0, 4)
    assert draws(0, 3) != draws(1, 3)


def test_training_leaves_the_callers_generator_as_it_was():
    torch.manual_seed(3)
    expected = torch.rand(3)
    model = make_model(dropout=0.1)
    torch.manual_seed(3)
    train(model, make_batches(), SETTINGS, progress=False)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("settings", "data_seed", "word"),
    [
        (changed(learning_rate=5e-4), 0, "learning_rate"),
        (changed(steps=20), 0, "steps"),
        (SETTINGS, 7, "other data"),
    ],
)
def test_another_run_cannot_be_resumed(settings, data_seed, word, tmp_path):
    model = make_model()
    train(model, make_batches(), SETTINGS, run_dir=tmp_path, progress=False)
    with pytest.raises(CheckpointError, match=word):
        train(
            model,
            make_batches(seed=data_seed),
            settings,
            run_dir=tmp_path,
            resume=True,
            progress=False,
        )


def test_a_loss_that_is_nan_names_the_step_and_the_mends():
    def poisoned(model, x, y):
        poisoned.calls += 1
        loss = model(x, y)[1]
        return loss * math.nan if poisoned.calls == 3 else loss

    poisoned.calls = 0
    with pytest.raises(DivergedError, match=r"step 3.*learning_rate.*clip"):
        train(
            make_model(),
            make_batches(),
            SETTINGS,
            progress=False,
            loss_function=poisoned,
        )


def test_evaluation_switches_dropout_off_and_back_on():
    model = make_model(dropout=0.5).train()
    losses = {evaluate(model, make_batches(), 2) for _ in range(3)}
    assert len(losses) == 1
    assert model.training


def test_token_losses_equal_cross_entropy_of_the_whole_document():
    model, ids = make_model().eval(), [4, 8, 15, 16, 2]
    logits = model(torch.tensor([[22, *ids[:-1]]]))[0][0]
    expected = F.cross_entropy(logits, torch.tensor(ids), reduction="none")
    losses = token_losses(model, ids, start=22)
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("length", [1, 8, 9, 12, 13, 16, 17, 40])
def test_a_long_document_gives_each_token_half_a_context(length):
    model = make_model().eval()
    ids = np.random.default_rng(1).integers(0, 22, length).tolist()
    losses = token_losses(model, ids, start=22)
    assert losses.shape == (length,)
    everything = torch.tensor([22, *ids])
    for place in range(length):
        candidates = []
        for seen in range(min(4, place) + 1, min(8, place + 1) + 1):
            x = everything[place + 1 - seen : place + 1]
            log_p = model(x[None])[0][0, -1].log_softmax(-1)
            candidates.append(-log_p[ids[place]].item())
        best = min(abs(c - losses[place].item()) for c in candidates)
        assert best < 1e-5


def test_document_loss_counts_the_end_and_averages_over_tokens():
    model = make_model().eval()
    documents = [[1, 2, 3], [4]]
    parts = [token_losses(model, [*d, 22], 22) for d in documents]
    expected = torch.cat(parts).mean().item()
    assert document_loss(model, documents, 22) == pytest.approx(expected)


def test_the_bar_leaves_only_blanks_behind(capsys):
    train(make_model(), make_batches(), SETTINGS, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.split("\r")[-1].strip() == ""


@pytest.mark.skipif(
    not runtime.computes_bfloat16("cpu"), reason="no native bfloat16"
)
def test_bfloat16_learns_as_float32_does():
    losses = [
        train(
            make_model(), make_batches(), changed(dtype=d), progress=False
        ).loss[-1]
        for d in ("float32", "bfloat16")
    ]
    assert abs(losses[0] - losses[1]) < 0.05
