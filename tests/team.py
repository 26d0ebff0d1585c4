"""Run by tests under torchrun, in as many processes as they ask for.

    torchrun --nproc-per-node 2 tests/team.py FOLDER JOB...

A job is ``engine/optimizer/what``: ``all`` trains a run from beginning to
end, ``cut`` stops it in all processes a few steps after a checkpoint,
``resume`` goes on with the run in the folder, ``die`` has the second process
end itself there, the first time; the folder of a job is its name with ``-``
for ``/``, or what follows ``@``. The first process writes what a run
measured into ``history.json`` of its folder.
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from llmbook import parallel
from llmbook.config import GPTConfig, TrainConfig
from llmbook.corpus.batches import Batches
from llmbook.model import GPT
from llmbook.train import next_token_loss, train

SHAPE = GPTConfig(
    vocab_size=23, context_length=8, n_layer=2, n_head=2, n_embd=16
)
STEPS, SAVED, ENDED = 50, 20, 24


class PowerCutError(Exception):
    """What ends a run that is to be resumed."""


class Ended:
    """Batches that end a run after so many steps, as ``how`` says."""

    def __init__(self, batches, settings, how):
        self.batches, self.how = batches, how
        self.last = ENDED * settings.accumulate

    def at(self, step):
        if step == self.last:
            self.how()
        return self.batches.at(step)


def cut():
    raise PowerCutError


def die():
    if parallel.team().rank == 1 and not parallel.restarts():
        os.kill(os.getpid(), signal.SIGKILL)


def settings(optimizer, engine="auto"):
    return TrainConfig(
        steps=STEPS,
        batch_size=4,
        accumulate=2,
        warmup_steps=3,
        eval_every=10,
        checkpoint_every=SAVED,
        eval_batches=2,
        optimizer=optimizer,
        dtype="float32",
        parallel=engine,
    )


def make_model(seed=0):
    return GPT(SHAPE, torch.Generator().manual_seed(seed))


def make_batches(seed=0):
    ids = np.random.default_rng(5).integers(0, 23, 2000)
    return Batches(ids, 8, 4, seed=seed)


def use(step, model, history):
    """A callback that uses the model, which gathers what was cut of it."""
    if step % SAVED == 0:
        with torch.no_grad():
            model(make_batches().at(0)[0])


def run(engine, optimizer, what, folder, model=None):
    """One job; its history, or None if it was cut."""
    chosen, batches = settings(optimizer, engine), make_batches()
    if what in ("cut", "die"):
        batches = Ended(batches, chosen, {"cut": cut, "die": die}[what])
    try:
        return train(
            model or make_model(),
            batches,
            chosen,
            validation=make_batches(seed=1),
            run_dir=folder,
            resume=what == "resume",
            callbacks=[use] if engine == "fsdp" else [],
        )
    except PowerCutError:
        return None


def averaged(team):
    """Whether DDP's gradients are those of ``average_gradients``."""
    x, y = (team.part(part) for part in make_batches().at(0))
    mine, theirs = make_model(), make_model()
    next_token_loss(mine, x, y).backward()
    parallel.average_gradients(mine, team)
    loss = parallel.TeamLoss(theirs, next_token_loss, 1, team)
    loss(theirs, x, y).backward()
    pairs = zip(mine.parameters(), theirs.parameters(), strict=True)
    return all(torch.allclose(p.grad, q.grad) for p, q in pairs)


if __name__ == "__main__":
    base, jobs = Path(sys.argv[1]), sys.argv[2:]
    with parallel.together() as team:
        for job in jobs:
            name, _, place = job.partition("@")
            folder = base / (place or name.replace("/", "-"))
            if name == "averaged":
                found = averaged(team)
            else:
                history = run(*name.split("/"), folder)
                found = history and history.to_dict()
            if team.speaks:
                folder.mkdir(exist_ok=True)
                text = json.dumps(found)
                (folder / "history.json").write_text(text)
            team.wait()
