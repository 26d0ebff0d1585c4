"""A text fed to a model through its cache, in pieces."""

import torch


@torch.no_grad()
def fed(model, x, pieces, cache):
    """Logits of ``x`` fed through ``cache`` in pieces of these lengths."""
    found = []
    for length in pieces:
        piece = x[:, cache.length : cache.length + length]
        logits, _ = model(piece, attends=cache.attends(), start=cache.length)
        found.append(logits)
    return torch.cat(found, dim=1)
