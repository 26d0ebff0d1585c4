"""Weights in Hugging Face's format, from the hub or from a folder."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llmbook import downloads
from llmbook.config import GPTConfig
from llmbook.model import GPT

from .files import CONFIG, INDEX, WEIGHTS, read_json
from .names import config_from_hub, our_state

REPOSITORIES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
}
ENDPOINT_VARIABLE = "HF_ENDPOINT"  # the hub's own variable, for mirrors
ENDPOINT = "https://huggingface.co"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def from_pretrained_gpt2(
    name_or_dir: str | os.PathLike[str], progress: bool = True
) -> GPT:
    """A GPT-2 with the weights that Hugging Face publishes.

    ``name_or_dir`` is ``"gpt2"``, ``"gpt2-medium"``, ``"gpt2-large"`` or
    ``"gpt2-xl"`` (downloaded once, into ``LLMBOOK_CACHE`` or the user's
    cache folder), or a folder with ``config.json`` and safetensors, whole
    or in shards. The model comes in evaluation mode, in float32.

    Raises:
        ValueError: no such name or folder, pickled weights, a damaged
            file, or a model that this architecture cannot express.
        OSError: the download failed; the message says what to do.
    """
    path = Path(name_or_dir)
    if path.suffix in PICKLED:
        raise ValueError(_pickle_refusal(path.name))
    if path.is_dir():
        return _load_folder(path)
    if str(name_or_dir) not in REPOSITORIES:
        raise ValueError(
            f"{str(name_or_dir)!r} is neither a folder nor a known model; "
            f"expected a folder or one of {', '.join(REPOSITORIES)}."
        )
    return _load_folder(download(str(name_or_dir), progress))


def gpt_from_tensors(tensors: dict[str, Tensor], config: GPTConfig) -> GPT:
    """A GPT holding ``tensors``, which carry transformers' names.

    Raises:
        ValueError: a tensor is missing, foreign, or of another shape.
    """
    state = our_state(tensors, config)
    with torch.device("meta"):  # shapes only: nothing is drawn, then lost
        model = GPT(config)
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state]
    foreign = [name for name in state if name not in wanted]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if missing or foreign or shapes:
        raise ValueError(
            "the weights do not fit the configuration beside them: missing "
            f"{missing[:3]}, foreign {foreign[:3]}, of another shape "
            f"{shapes[:3]} (up to three each). Take both files from the "
            "same model."
        )
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True).eval()


def _pickle_refusal(name: str) -> str:
    return (
        f"{name} is a pickle, and opening a pickle runs whatever code its "
        f"author put inside. Use the model's safetensors file ({WEIGHTS}), "
        "which holds numbers only."
    )


def _load_folder(folder: Path) -> GPT:
    config_path = folder / CONFIG
    if not config_path.is_file():
        raise ValueError(
            f"{folder} has no {CONFIG}; expected it beside the weights."
        )
    config = config_from_hub(read_json(config_path))
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        tensors.update(_read_safetensors(path))
    return gpt_from_tensors(tensors, config)


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
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{index.name} names the shard {name!r}; expected the bare "
                "name of a safetensors file in the same folder."
            )
    return names


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as opened:
            names = opened.keys()
            return {name: opened.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing, though the index names it. Download it."
        ) from error
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or no safetensors file ({error}). Delete "
            "it and download it again."
        ) from error


def download(name: str, progress: bool = True) -> Path:
    """Fetch a GPT-2 into the cache, once; return its folder.

    The SHA-256 of each file is recorded when it first arrives, and verified
    at every later use.
    """
    endpoint = os.environ.get(ENDPOINT_VARIABLE, ENDPOINT).rstrip("/")
    base = f"{endpoint}/{REPOSITORIES[name]}/resolve/main"
    mend = f"Or pass a folder that holds {CONFIG} and {WEIGHTS}."
    for file in (CONFIG, WEIGHTS):
        path = downloads.fetch(
            f"{base}/{file}", f"{name}/{file}", mend=mend, progress=progress
        )
    return path.parent
