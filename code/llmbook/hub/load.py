"""Weights in Hugging Face's format, from the hub or from a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llmbook import accounting
from llmbook.config import GPTConfig
from llmbook.model import GPT

from .families import biases_left_out, config_from_hub, family
from .files import CONFIG, INDEX, WEIGHTS, read_json
from .names import HEAD, NAMES, layout, short_name
from .repositories import download

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def from_pretrained(
    name_or_dir: str | os.PathLike[str],
    progress: bool = True,
    dtype: torch.dtype = torch.float32,
) -> GPT:
    """A GPT-2, Llama or Mistral with the weights that somebody published.

    ``name_or_dir`` is a name that :data:`REPOSITORIES` has (downloaded
    once, into ``LLMBOOK_CACHE`` or the user's cache folder), or a folder
    with ``config.json`` and safetensors, whole or in shards. The model
    comes in evaluation mode, and in ``dtype`` whatever the file is in. No
    more is in memory than the model and a tensor or two of the file's.

    Raises:
        ValueError: no such name or folder, pickled weights, a damaged
            file, or a model that this architecture cannot express.
        OSError: the download failed; the message says what to do.
    """
    folder = Path(name_or_dir)
    if not folder.is_dir():
        if folder.suffix in PICKLED:
            raise ValueError(_pickle_refusal(folder.name))
        folder = download(os.fspath(name_or_dir), progress=progress)
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder} has no {CONFIG}; expected it beside the weights."
        )
    settings = read_json(folder / CONFIG)
    config, paths = config_from_hub(settings), _weight_files(folder)
    _check_size(config, paths)
    return _filled(config, _tensors(paths), biases_left_out(settings), dtype)


def from_pretrained_gpt2(
    name_or_dir: str | os.PathLike[str], progress: bool = True
) -> GPT:
    """:func:`from_pretrained`, for a GPT-2 and nothing else.

    Raises:
        ValueError: it is of another family, or as there.
    """
    model = from_pretrained(name_or_dir, progress)
    if family(model.config) != "gpt2":
        raise ValueError(
            f"{name_or_dir} is a {family(model.config)} by its model_type, "
            "and no gpt2. Call from_pretrained, which loads both."
        )
    return model


def gpt_from_tensors(
    tensors: Mapping[str, Tensor],
    config: GPTConfig,
    dtype: torch.dtype = torch.float32,
) -> GPT:
    """A GPT holding copies of ``tensors``, which have transformers' names.

    Raises:
        ValueError: a tensor is missing, foreign, or of another shape.
    """
    return _filled(config, tensors.items(), [], dtype)


class Zeros(dict[str, Tensor]):
    """A state whose tensors are made, as zeros, when first asked for.

    So weights that do not fit are refused before there is room for them.

    >>> Zeros({"a": torch.empty(2, device="meta")}, torch.float32)["a"]
    tensor([0., 0.])
    """

    def __init__(
        self, shapes: Mapping[str, Tensor], dtype: torch.dtype
    ) -> None:
        self.shapes, self.dtype = shapes, dtype

    def __missing__(self, name: str) -> Tensor:
        self[name] = torch.zeros(self.shapes[name].shape, dtype=self.dtype)
        return self[name]


def _filled(
    config: GPTConfig,
    tensors: Iterable[tuple[str, Tensor]],
    without_bias: Sequence[str],
    dtype: torch.dtype,
) -> GPT:
    """A GPT into which each tensor is copied as it comes.

    ``without_bias`` are parts of their blocks whose biases stay zero.
    """
    names = NAMES[family(config)]
    with torch.device("meta"):  # shapes alone: nothing is drawn, then lost
        model = GPT(config)
    shapes = model.state_dict()
    state, places = Zeros(shapes, dtype), layout(config, shapes)
    for name in [*places]:
        if name.endswith("bias") and any(p in name for p in without_bias):
            del places[name]
    foreign, unlike = [], []
    for name, tensor in tensors:
        short = short_name(name, names)
        if short is None or (short == HEAD and config.tie_weights):
            continue
        place = places.pop(short, None)
        if place is None:
            no_bias = name.endswith(".bias") and not config.bias
            if not (no_bias and not tensor.any()):
                foreign.append(name)
        elif problem := _unlike(tensor, place.of(shapes)):
            unlike.append(f"{name} is {problem}")
        else:
            place.of(state).copy_(tensor)
    _refuse([*places], foreign, unlike)
    model.load_state_dict({n: state[n] for n in shapes}, assign=True)
    return model.requires_grad_(True).eval()


def _unlike(tensor: Tensor, ours: Tensor) -> str:
    """How ``tensor`` differs from what ours can hold; empty: it does not."""
    if tensor.dtype not in DTYPES:
        return str(tensor.dtype)
    if tensor.shape != ours.shape:
        return f"{tuple(tensor.shape)}, not {tuple(ours.shape)}"
    return ""


def _refuse(
    missing: Sequence[str], foreign: Sequence[str], unlike: Sequence[str]
) -> None:
    """Say what does not fit, if something does not."""
    if missing or foreign or unlike:
        raise ValueError(
            "the weights do not fit the configuration beside them: missing "
            f"{missing[:3]}, foreign {foreign[:3]}, of another shape or "
            f"type {unlike[:3]} (up to three each). Take both files from "
            "the same model, before it was quantised."
        )


def _pickle_refusal(name: str) -> str:
    return (
        f"{name} is a pickle, and opening a pickle runs whatever code its "
        f"author put inside. Use the model's safetensors file ({WEIGHTS}), "
        "which holds numbers only."
    )


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of ``folder``: one, or the index's shards."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return [folder / name for name in _shards(folder / INDEX)]
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)
    if pickles:
        raise ValueError(_pickle_refusal(pickles[0]))
    raise ValueError(
        f"{folder} holds no weights; expected {WEIGHTS} or {INDEX}."
    )


def _shards(index: Path) -> list[str]:
    """The file names in an index; a name may not leave the folder."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(
            f"{index} has no weight_map, which says what file holds which "
            "tensor. Download it again."
        )
    for name in weight_map.values():
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or not name.endswith(".safetensors")
        ):
            raise ValueError(
                f"{index.name} names the shard {name!r}; expected the bare "
                "name of a safetensors file in the same folder."
            )
    return sorted(set(weight_map.values()))


def _check_size(config: GPTConfig, paths: Sequence[Path]) -> None:
    """Refuse a model that the files cannot hold, before it is built.

    A number takes two bytes or more; but a file may leave biases out.
    """
    count = 0
    for path in paths:
        with _opened(path) as file:
            count += len(file.keys())
    held = sum(path.stat().st_size for path in paths)
    needed = accounting.parameters(config)
    if config.n_layer > count or needed > held:
        raise ValueError(
            "the weights do not fit the configuration beside them: it has "
            f"{config.n_layer:,} layers and {needed:,} numbers, and they are "
            f"{count:,} tensors in {held:,} bytes. Take both files from the "
            "same model."
        )


def _tensors(paths: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of safetensors files, one at a time."""
    for path in paths:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118  (no mapping)
                yield name, file.get_tensor(name)


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    """A safetensors file, open for reading.

    Raises:
        ValueError: it is missing, or no such file, or cut short.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is missing, though the index names it. Download it."
        )
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or no safetensors file ({error}). "
            "Delete it and download it again."
        ) from error
