"""What a model's loss is: on batches, a token at a time, on documents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llmbook import runtime

from .step import BatchSource, LossFunction, next_token_loss


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: BatchSource,
    steps: int,
    *,
    dtype: str = "auto",
    loss_function: LossFunction = next_token_loss,
) -> float:
    """The mean loss over the first ``steps`` batches, in nats a token.

    Dropout is off meanwhile, and the batches are the same at every call, so
    two results differ because the models do.
    """
    device = next(model.parameters()).device
    was_training, total = model.training, 0.0
    model.eval()
    for step in range(steps):
        x, y = batches.at(step)
        with runtime.autocast(device, runtime.best_dtype(device, dtype)):
            loss = loss_function(model, x.to(device), y.to(device))
        total += loss.item() / steps
    model.train(was_training)
    return total


@torch.no_grad()
def token_losses(model: nn.Module, ids: Sequence[int], start: int) -> Tensor:
    """−ln p of each of ``ids``, read as one document after ``start``.

    A document longer than the context is read in windows that overlap by
    half, so that no token is guessed from less than half a context (but
    those of the beginning, which have no more). Returns float32 (len(ids),)

    Args:
        start: the token before the first: ``tokenizer.end_of_text``.
    """
    model_ids = torch.tensor([start, *ids])
    T, device = model.config.context_length, next(model.parameters()).device
    was_training, losses, done = model.training, [], 0
    model.eval()
    while done < len(ids):
        first = 0 if len(ids) <= T else max(0, done - T // 2)
        x = model_ids[first : min(first + T, len(ids))].to(device)
        y = model_ids[first + 1 : first + 1 + len(x)].to(device)
        log_p = model(x[None])[0][0].float().log_softmax(-1)  # (T, V)
        window = -log_p.gather(1, y[:, None])[:, 0]
        losses.append(window[done - first :].cpu())
        done = first + len(x)
    model.train(was_training)
    return torch.cat(losses) if losses else torch.zeros(0)


def document_loss(
    model: nn.Module, documents: Sequence[Sequence[int]], end_of_text: int
) -> float:
    """The mean loss a token when every document is scored whole.

    Each is read from its start token <|endoftext|> to its end, and the end
    is a token to be guessed like the others. Its sum over a document is
    −ln p(document), so it can be held against the corpus's entropy.
    """
    total, tokens = 0.0, 0
    for ids in documents:
        losses = token_losses(model, [*ids, end_of_text], end_of_text)
        total += losses.double().sum().item()
        tokens += len(losses)
    return total / tokens
