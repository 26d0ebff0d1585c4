"""Any causal language model of Hugging Face's transformers, evaluated."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmbook import runtime
from llmbook.batching import left_pad, right_pad
from llmbook.evaluation.models import (
    Ids,
    Pair,
    Scored,
    cut_at,
    fit_context,
    fit_prompt,
    stops,
    weights_hash,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_SIZE = 8  # whole rows of logits are in memory
# Where a configuration keeps the context length, in the harness's order.
LENGTH_NAMES = ("n_positions", "max_position_embeddings", "n_ctx")


class TransformersModel:
    """A causal language model of transformers as a ``LanguageModel``.

    It is read the way lm-evaluation-harness reads it (``HFLM``): texts get
    what its tokenizer puts before them (Llama's a start token), documents
    begin after its start token, or where it has none its end token. But no
    text becomes a control token, and drawing is not limited to the 50
    likeliest tokens, transformers' own default.

    Args:
        model, tokenizer: as transformers loads them.
        batch_size: rows in a forward pass.
        name: what results call it.

    Raises:
        ValueError: there is no end token, or no context length to be found.
    """

    packages = ("torch", "transformers")

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = BATCH_SIZE,
        name: str = "transformers",
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.batch_size, self.name = batch_size, name
        self.context_length = _context_length(model.config)
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"the tokenizer of {name} names no end-of-text token; "
                "expected one. Set tokenizer.eos_token."
            )
        start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.end_of_text = end
        self.prefix_token = end if start is None else start

    @classmethod
    def load(
        cls, name_or_dir: str | os.PathLike[str], batch_size: int = BATCH_SIZE
    ) -> TransformersModel:
        """Load a folder, or a model of the hub where there is a network.

        Weights are read from safetensors alone, and code that comes with a
        model is never run.

        Raises:
            ImportError: transformers is not installed.
            OSError: there is no such model, or no way to it.
        """
        try:
            import transformers
        except ImportError as error:
            raise ImportError(
                f"{name_or_dir} is no model of this book's own kind, and "
                "others are read by transformers, which is missing: pip "
                'install "llmbook[eval]".'
            ) from error
        name = os.fspath(name_or_dir)
        choices: dict[str, Any] = {"trust_remote_code": False}
        if Path(name).is_dir():
            choices["local_files_only"] = True
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                name, use_safetensors=True, dtype="auto", **choices
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                name, **choices
            )
        except Exception as error:  # they are of many kinds
            raise OSError(
                f"{name} cannot be loaded: {str(error).strip()} It must be "
                "a folder with safetensors, or a model of the hub. Without "
                "a network, copy its folder (config.json, safetensors, "
                "tokenizer.json) here and give the folder's path."
            ) from error
        device = runtime.best_device()
        return cls(model.to(device), tokenizer, batch_size, name)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; a control token's name is plain characters."""
        return self.tokenizer.encode(
            text, split_special_tokens=True, verbose=False
        )

    def decode(self, ids: Ids) -> str:
        """The text of ``ids``, control tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def loglikelihoods(self, pairs: Sequence[Pair]) -> list[Scored]:
        """Score the second half of each pair, given the first.

        Pairs that are read alike but for their last token share a pass.
        """
        rows: dict[tuple[int, ...], list[int]] = {}
        for number, (before, after) in enumerate(pairs):
            fitted = fit_context(before, after, self.context_length)
            read = (*fitted, *after[:-1])
            rows.setdefault(read, []).append(number)
        order = sorted(rows, key=len, reverse=True)
        found: list[Scored | None] = [None] * len(pairs)
        for first in range(0, len(order), self.batch_size):
            batch = order[first : first + self.batch_size]
            for read, logits in zip(batch, self._logits(batch), strict=True):
                for number in rows[read]:
                    after = pairs[number][1]
                    end = len(read)
                    part = logits[end - len(after) : end]
                    found[number] = _scored(part, after)
        return found

    @torch.no_grad()
    def _logits(self, rows: Sequence[Ids]) -> Tensor:
        """Logits (B, T, V) of rows, which are padded on the right."""
        T = max(map(len, rows))
        mask = right_pad([[1] * len(row) for row in rows], T, 0)
        device = self.model.device
        return self.model(
            input_ids=right_pad(rows, T).to(device),
            attention_mask=mask.to(device),
        ).logits

    def generate(
        self,
        prompts: Sequence[Ids],
        max_new_tokens: int,
        stop: Sequence[str] = (),
        *,
        temperature: float = 0,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> list[str]:
        """Write on from each prompt, up to the first stop string."""
        terms = [*stop, self.tokenizer.decode([self.end_of_text])]
        choices: dict[str, Any] = {"do_sample": temperature > 0}
        if temperature > 0:
            choices |= {"temperature": temperature, "top_k": 0}
            choices |= {"top_p": 1.0 if top_p is None else top_p}
        written = []
        with torch.random.fork_rng():
            if seed is not None:
                torch.manual_seed(seed)
            for first in range(0, len(prompts), self.batch_size):
                rows = self._write(
                    [
                        fit_prompt(p, max_new_tokens, self.context_length)
                        for p in prompts[first : first + self.batch_size]
                    ],
                    max_new_tokens,
                    stops(self.decode, terms),
                    choices,
                )
                written += [cut_at(self.decode(row), terms) for row in rows]
        return written

    @torch.no_grad()
    def _write(
        self,
        prompts: Sequence[Ids],
        max_new_tokens: int,
        stop: Callable[[Ids], bool],
        choices: dict[str, Any],
    ) -> list[list[int]]:
        """The new ids of each prompt."""
        ids, pads = left_pad(
            prompts, self.end_of_text, device=self.model.device
        )
        T = ids.shape[1]
        real = torch.arange(T, device=ids.device) >= pads[:, None]

        def ended(rows: Tensor, scores: Any, **_: Any) -> Tensor:
            flags = [stop(row) for row in rows[:, T:].tolist()]
            return torch.tensor(flags, device=rows.device)

        rows = self.model.generate(
            input_ids=ids,
            attention_mask=real.long(),
            max_new_tokens=max_new_tokens,
            stopping_criteria=[ended],
            pad_token_id=self.end_of_text,
            **choices,
        )
        return rows[:, T:].tolist()

    def fingerprint(self) -> str:
        """SHA-256 of every weight, and of the tokenizer's vocabulary."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        parts = weights_hash(self.model) + repr(vocabulary)
        return hashlib.sha256(parts.encode()).hexdigest()


def _context_length(config: Any) -> int:
    """How many tokens a model reads, by its configuration."""
    config = getattr(config, "text_config", None) or config
    for name in LENGTH_NAMES:
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    raise ValueError(
        f"the model's configuration has none of {', '.join(LENGTH_NAMES)}; "
        "expected one, for texts are cut to what a model reads."
    )


def _scored(logits: Tensor, after: Ids) -> Scored:
    """The score of the tokens ``after``, predicted by ``logits`` (n, V)."""
    wanted = torch.tensor(list(after), device=logits.device)
    logprobs = logits.float().log_softmax(dim=-1)
    found = logprobs.gather(-1, wanted[:, None])[:, 0]
    greedy = bool((logits.argmax(dim=-1) == wanted).all())
    return Scored(tuple(found.tolist()), greedy)
