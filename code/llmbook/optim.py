"""How a gradient becomes a step: decay groups, clipping, AdamW, Muon."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as torch_adamw

from llmbook.config import TrainConfig

CLIP_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_ adds the same
# Jordan et al. 2024: a quintic that pushes singular values towards 1, steep
# at 0; five turns bring all but the smallest to between 0.7 and 1.2.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
NEWTON_SCHULZ_EPSILON = 1e-7  # keeps a gradient of zeros from dividing by 0
ADAMW_RMS = 0.2  # Liu et al. 2025, section 2.2: the size of AdamW's updates


def parameter_groups(
    model: nn.Module, weight_decay: float
) -> list[dict[str, Any]]:
    """Split parameters into those that decay and those that do not.

    Matrices (linear weights, embeddings) decay; vectors (biases, the gains
    of norms) do not. A parameter used in two places is listed once.

    >>> groups = parameter_groups(nn.Linear(3, 2), weight_decay=0.1)
    >>> [(g["weight_decay"], len(g["params"])) for g in groups]
    [(0.1, 1), (0.0, 1)]
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {
            "params": [p for p in trained if p.dim() >= 2],
            "weight_decay": weight_decay,
        },
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]


def adamw_update(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: int,
    *,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """Change ``weight``, ``mean`` and ``square`` in place by one AdamW step.

    ``mean`` and ``square`` are the running averages of the gradient and of
    its square, both 0 before step 1. Source: Loshchilov and Hutter 2019,
    algorithm 2, with the decay scaled by the learning rate as PyTorch does.

    >>> w, m, v = torch.tensor([1.0]), torch.zeros(1), torch.zeros(1)
    >>> adamw_update(w, torch.tensor([5.0]), m, v, 1, learning_rate=0.1,
    ...     beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.0)
    >>> w  # the first step is the learning rate, whatever the gradient's size
    tensor([0.9000])
    """
    weight.mul_(1 - learning_rate * weight_decay)
    mean.lerp_(gradient, 1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    mean_scale = 1 - beta1**step  # both start at 0: undo that bias
    square_scale = math.sqrt(1 - beta2**step)
    spread = square.sqrt().div_(square_scale).add_(epsilon)
    weight.addcdiv_(mean, spread, value=-learning_rate / mean_scale)


def fused_adamw_update(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: int,
    *,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """:func:`adamw_update` in one pass over memory, by PyTorch's kernel.

    The same numbers but for rounding.

    >>> w, m, v = torch.tensor([1.0]), torch.zeros(1), torch.zeros(1)
    >>> fused_adamw_update(w, torch.tensor([5.0]), m, v, 1,
    ...     learning_rate=0.1, beta1=0.9, beta2=0.95, epsilon=1e-8,
    ...     weight_decay=0.0)
    >>> w
    tensor([0.9000])
    """
    torch_adamw(
        [weight],
        [gradient],
        [mean],
        [square],
        [],
        [torch.tensor(step - 1.0)],  # it counts on by itself
        fused=True,
        amsgrad=False,
        maximize=False,
        lr=learning_rate,
        beta1=beta1,
        beta2=beta2,
        eps=epsilon,
        weight_decay=weight_decay,
    )


def fits_fused(weight: Tensor) -> bool:
    """Whether PyTorch's kernel updates ``weight``: whole, on a processor.

    >>> fits_fused(torch.ones(2))
    True
    """
    return (
        type(weight.data) is Tensor  # and no part of one, spread over many
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.is_contiguous()
    )


def held(tensor: Tensor) -> Tensor:
    """What this process holds of ``tensor``: all, or its slice.

    AdamW treats every number alike, so a slice needs no other.

    >>> held(torch.ones(2))
    tensor([1., 1.])
    """
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class AdamW(torch.optim.Optimizer):
    """AdamW: :func:`adamw_update` for every parameter, fused where it fits.

    Args:
        params: parameters, or groups as :func:`parameter_groups` makes.
        lr: the learning rate; change ``group["lr"]`` between steps.
        betas, eps, weight_decay: as in ``torch.optim.AdamW``.

    >>> weight = nn.Parameter(torch.ones(1))
    >>> optimizer = AdamW([weight], lr=0.5)
    >>> (weight * 3).sum().backward()
    >>> optimizer.step()
    >>> round(weight.item(), 4)
    0.495
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            moving = [w for w in group["params"] if w.grad is not None]
            self._update_all(moving, group)

    def _update_all(
        self, weights: Sequence[Tensor], group: dict[str, Any]
    ) -> None:
        for weight in weights:
            self._update(weight, group)

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(weight)
            state["square"] = torch.zeros_like(weight)
        state["step"] += 1
        here = held(weight), held(weight.grad)
        fused = fits_fused(here[0]) and fits_fused(here[1])
        update = fused_adamw_update if fused else adamw_update
        update(
            *here,
            held(state["mean"]),
            held(state["square"]),
            state["step"],
            learning_rate=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            epsilon=group["eps"],
            weight_decay=group["weight_decay"],
        )


def orthogonalise(matrix: Tensor, steps: int = NEWTON_SCHULZ_STEPS) -> Tensor:
    """Bring all singular values of ``matrix`` (..., R, C) close to 1.

    With matrix = U S V', the result is about U V': the same directions, each
    as strong as the others. A polynomial in the matrix is applied to itself
    a few times, so only products are needed. Source: Jordan et al. 2024
    (https://kellerjordan.github.io/posts/muon), after Bernstein and
    Newhouse 2024.

    >>> orthogonalise(torch.diag(torch.tensor([9.0, 0.3]))).round().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix  # the smaller product: (least, least)
    size = x.norm(dim=(-2, -1), keepdim=True)
    x = x / (size + NEWTON_SCHULZ_EPSILON)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def orthogonalised(
    matrices: Sequence[Tensor], dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """:func:`orthogonalise` for each matrix; equal shapes go together.

    One product of a stack takes less time than many of its layers. Products
    are computed in ``dtype``, and what is returned is float32.

    >>> [m.shape[0] for m in orthogonalised([torch.eye(2), torch.eye(3)])]
    [2, 3]
    """
    places = defaultdict(list)
    for place, matrix in enumerate(matrices):
        places[matrix.shape].append(place)
    found = list(matrices)
    for alike in places.values():
        stack = torch.stack([matrices[place] for place in alike])
        directions = orthogonalise(stack.to(dtype)).float()
        for place, direction in zip(alike, directions, strict=True):
            found[place] = direction
    return found


def muon_groups(
    model: nn.Module, weight_decay: float, adamw_scale: float = 1.0
) -> list[dict[str, Any]]:
    """Split parameters for :class:`Muon`: matrices of the blocks, and others.

    Embeddings and head stay with AdamW (Jordan et al. 2024): their rows are
    single tokens, and few of them have a gradient in any one step. Their
    learning rate is ``adamw_scale`` times the matrices'
    (:func:`set_learning_rate`).
    """
    inner, outer = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_inner = name.startswith("blocks.") and parameter.ndim == 2
            (inner if is_inner else outer).append(parameter)
    return [
        {"params": inner, "weight_decay": weight_decay, "muon": True},
        {
            "params": outer,
            "weight_decay": 0.0,
            "muon": False,
            "scale": adamw_scale,
        },
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group the learning rate ``rate`` times its own ``"scale"``.

    >>> groups = [{"params": [torch.zeros(1)]},
    ...     {"params": [torch.ones(1)], "scale": 3.0}]
    >>> optimizer = AdamW(groups)
    >>> set_learning_rate(optimizer, 0.5)
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.5, 1.5]
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


class Muon(AdamW):
    """Momentum, orthogonalised, for matrices; AdamW for everything else.

    A group with ``"muon": True`` moves by the orthogonalised running average
    of its gradient, so that directions which seldom show in the gradient are
    learned as fast as the common ones. The step is scaled to the size of
    AdamW's, so both share one learning rate. Sources: Jordan et al. 2024;
    for scale and decay Liu et al. 2025 (https://arxiv.org/abs/2502.16982),
    section 2.2.

    Args:
        params: groups as :func:`muon_groups` makes.
        momentum: decay of the running average, with Nesterov's look ahead.
        dtype: format of the products that orthogonalise; 16 bits are enough
            (Jordan et al. 2024).
        lr, betas, eps, weight_decay: as in :class:`AdamW`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
        **settings: Any,
    ) -> None:
        super().__init__(params, **settings)
        self.dtype = dtype
        for group in self.param_groups:
            group["momentum"] = momentum

    def _update_all(
        self, weights: Sequence[Tensor], group: dict[str, Any]
    ) -> None:
        if not group["muon"]:
            super()._update_all(weights, group)
            return
        ahead = [self._ahead(weight, group["momentum"]) for weight in weights]
        rate, decay = group["lr"], group["weight_decay"]
        directions = self.directions(ahead)
        for weight, direction in zip(weights, directions, strict=True):
            scale = ADAMW_RMS * math.sqrt(max(weight.shape))
            weight.mul_(1 - rate * decay)
            weight.sub_(direction, alpha=rate * scale)

    def _ahead(self, weight: Tensor, momentum: float) -> Tensor:
        """The running average of the gradient, one step further on."""
        state = self.state[weight]
        if not state:
            state["mean"] = torch.zeros_like(weight)
        state["mean"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(state["mean"], momentum)

    def directions(self, ahead: Sequence[Tensor]) -> list[Tensor]:
        """Where matrices (R, C) move; pieces of them need more than this."""
        return orthogonalised(ahead, self.dtype)


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], largest: float) -> float:
    """Shrink all gradients together so that their L2 norm is ``largest``.

    The direction stays; gradients below the limit are left alone. Returns
    the norm before clipping. ``largest=0`` only measures. Source: Pascanu
    et al. 2013, https://arxiv.org/abs/1211.5063, algorithm 1.

    >>> weight = nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_gradients([weight], largest=1.0)
    5.0
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    norms = torch.stack([torch.linalg.vector_norm(g) for g in gradients])
    norm = torch.linalg.vector_norm(norms).item()
    if largest and norm + CLIP_EPSILON > largest:
        for gradient in gradients:
            gradient.mul_(largest / (norm + CLIP_EPSILON))
    return norm


def cosine_schedule(step: int, config: TrainConfig) -> float:
    """The learning rate of ``step`` (counted from 0).

    It rises in a line over ``config.warmup_steps``, then falls along half a
    cosine and arrives at ``config.min_learning_rate`` in the last step.
    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983,
    section 3, without restarts.

    >>> config = TrainConfig(steps=101, warmup_steps=1, learning_rate=1.0,
    ...     min_learning_rate=0.0)
    >>> [round(cosine_schedule(s, config), 3) for s in (0, 1, 100)]
    [1.0, 1.0, 0.0]
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    falling = max(1, config.steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / falling)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))  # from 1 to 0
    low, high = config.min_learning_rate, config.learning_rate
    return low + (high - low) * cosine
