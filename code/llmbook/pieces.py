"""A checkpoint in pieces: each process writes its own slices.

A folder holds a safetensors file from every process, and ``header.json``:
format, version, the model's configuration, the run's state, where each
slice of each tensor lies, and the SHA-256 of every file and of itself.
torch's distributed checkpoint
(https://docs.pytorch.org/docs/stable/distributed.checkpoint.html) plans who
writes and reads what, so any number of processes can take up the run of any
other; its own files are pickles, which could run code, so they are not used.

The folder is written beside its place and renamed, and the one before it is
kept, as :mod:`llmbook.checkpoint` does with its one file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from llmbook import checkpoint
from llmbook.checkpoint import (
    MODEL,
    OPTIMIZER,
    Checkpoint,
    CheckpointError,
    CheckpointWarning,
    DamagedError,
)
from llmbook.downloads import sha256_of
from llmbook.model import GPT
from llmbook.parallel import Team

FORMAT = "llmbook-pieces"
VERSION = 1
HEADER = "header.json"
Files = dict[str, str]  # the SHA-256 of each by its name


class _Writer(dcp.StorageWriter):
    """Where torch's planner puts slices: one safetensors file a process."""

    def __init__(self, folder: Path, header: dict[str, Any], team: Team):
        self.folder, self.header, self.team = folder, header, team
        self.beside = _beside(folder)

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool) -> None:
        pass

    def prepare_local_plan(self, plan: dcp.SavePlan) -> dcp.SavePlan:
        return plan

    def prepare_global_plan(
        self, plans: list[dcp.SavePlan]
    ) -> list[dcp.SavePlan]:
        """The first process makes the folder, before any other writes."""
        shutil.rmtree(self.beside, ignore_errors=True)
        self.beside.mkdir(parents=True)
        return plans

    def write_data(
        self, plan: dcp.SavePlan, planner: dcp.SavePlanner
    ) -> Future[list[WriteResult]]:
        """Write this process's slices, and say how the file can be known."""
        file = self.beside / f"rank-{self.team.rank:05d}.safetensors"
        slices = {
            _key(item.index): planner.resolve_data(item).detach().cpu()
            for item in plan.items
        }
        try:
            save_file({k: t.contiguous() for k, t in slices.items()}, file)
        except SafetensorError as error:  # which cannot be sent to another
            raise OSError(str(error)) from None
        with open(file, "rb+") as written:
            os.fsync(written.fileno())
        note = (file.name, sha256_of(file))
        done: Future[list[WriteResult]] = Future()
        done.set_result(
            [
                WriteResult(i.index, slices[_key(i.index)].nbytes, note)
                for i in plan.items
            ]
        )
        return done

    def finish(
        self, metadata: Metadata, results: list[list[WriteResult]]
    ) -> None:
        """The first process writes the header, and renames the folder."""
        written = [result for each in results for result in each]
        files = dict(result.storage_data for result in written)
        where = {r.index: r.storage_data[0] for r in written}
        tensors = _tensors_to_json(metadata, where)
        content = {**self.header, "files": files, "tensors": tensors}
        text = json.dumps(content)
        digest = hashlib.sha256(text.encode()).hexdigest()
        with open(self.beside / HEADER, "w", encoding="utf-8") as file:
            file.write(f"{digest}\n{text}\n")
            file.flush()
            os.fsync(file.fileno())
        _put_in_place(self.beside, self.folder)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


class _Reader(dcp.StorageReader):
    """Gives torch's planner the slices that the files of a folder hold."""

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        self.folder = folder
        self.metadata = _metadata_from_json(header["tensors"])

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def read_metadata(self) -> Metadata:
        return self.metadata

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool
    ) -> None:
        pass

    def prepare_local_plan(self, plan: dcp.LoadPlan) -> dcp.LoadPlan:
        return plan

    def prepare_global_plan(
        self, plans: list[dcp.LoadPlan]
    ) -> list[dcp.LoadPlan]:
        return plans

    def read_data(
        self, plan: dcp.LoadPlan, planner: dcp.LoadPlanner
    ) -> Future[None]:
        """Copy what this process needs out of each file, and no more."""
        wanted: dict[str, list[Any]] = {}
        for item in plan.items:
            name = self.metadata.storage_data[item.storage_index]
            wanted.setdefault(name, []).append(item)
        for name, items in wanted.items():
            with safe_open(self.folder / name, framework="pt") as file:
                for item in items:
                    stored = file.get_slice(_key(item.storage_index))
                    ranges = zip(
                        item.storage_offsets, item.lengths, strict=True
                    )
                    here = tuple(slice(a, a + n) for a, n in ranges)
                    place = planner.resolve_tensor(item).detach()
                    place.copy_(stored[here])
                    planner.commit_tensor(item, place)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


def _key(index: MetadataIndex) -> str:
    """A slice's name in its file: the tensor's, and where it begins."""
    return f"{index.fqn}@{','.join(map(str, index.offset or ()))}"


def _tensors_to_json(
    metadata: Metadata, where: dict[MetadataIndex, str]
) -> dict[str, Any]:
    """Of each tensor its type and shape, and of each slice where it lies."""
    return {
        name: {
            "dtype": str(tensor.properties.dtype).removeprefix("torch."),
            "shape": list(tensor.size),
            "slices": [
                {
                    "at": list(chunk.offsets),
                    "shape": list(chunk.sizes),
                    "file": where[MetadataIndex(name, chunk.offsets)],
                }
                for chunk in tensor.chunks
            ],
        }
        for name, tensor in metadata.state_dict_metadata.items()
    }


def _metadata_from_json(tensors: dict[str, Any]) -> Metadata:
    """What torch's planner wants to know, from what the header says."""
    known, where = {}, {}
    for name, tensor in tensors.items():
        known[name] = TensorStorageMetadata(
            TensorProperties(getattr(torch, tensor["dtype"])),
            torch.Size(tensor["shape"]),
            [
                ChunkStorageMetadata(
                    torch.Size(s["at"]), torch.Size(s["shape"])
                )
                for s in tensor["slices"]
            ],
        )
        for s in tensor["slices"]:
            where[MetadataIndex(name, s["at"])] = s["file"]
    return Metadata(known, storage_data=where)


def save(
    folder: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    team: Team,
) -> Path:
    """Write a checkpoint in pieces; every process has to call it.

    The arguments are those of :func:`llmbook.checkpoint.save`, and the
    model is cut. The folder before it stays as
    :func:`llmbook.checkpoint.previous_of`.

    Raises:
        CheckpointError: a file cannot be written; the folder that was there
            is as it was, in every process.
    """
    folder = Path(folder)
    model.reshard()  # what a callback has gathered
    moments, scalars = checkpoint.optimizer_to_parts(optimizer, model)
    weights = model.state_dict()
    header = {
        "format": FORMAT,
        "version": VERSION,
        "config": checkpoint.config_of(model),
        "optimizer": scalars,
        "state": state,
    }
    tensors = {MODEL + name: tensor for name, tensor in weights.items()}
    tensors |= {OPTIMIZER + name: tensor for name, tensor in moments.items()}
    try:
        dcp.save(tensors, storage_writer=_Writer(folder, header, team))
    except CheckpointException as error:
        if team.speaks:
            shutil.rmtree(_beside(folder), ignore_errors=True)
        why = checkpoint.why_not_written(folder, _cause(error))
        raise CheckpointError(why) from error
    return folder


def _beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.part")


def _cause(error: CheckpointException) -> BaseException:
    """What went wrong in the first process in which something did."""
    return next(iter(error.failures.values()))[0]


def load(folder: str | Path, model: nn.Module) -> Checkpoint:
    """Read a checkpoint in pieces, cut as ``model`` is cut, or whole.

    Where there are several processes, every one of them has to call it.
    The files' checksums are :func:`settle`'s to compare.

    Raises:
        DamagedError: a file is missing, or cut short.
        CheckpointError: it is another program's or a newer version's.
    """
    folder = Path(folder)
    header = read_header(folder)
    own = model.state_dict()
    tensors = {}
    for full_name, note in header["tensors"].items():
        name = full_name.removeprefix(MODEL).removeprefix(OPTIMIZER)
        like = own.get(name.partition(":")[0])  # a moment is name:mean
        tensors[full_name] = _room_for(note, like)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(tensors, storage_reader=_Reader(folder, header))
    except CheckpointException as error:
        why = f"{folder} cannot be read: {_cause(error)}"
        raise DamagedError(why) from error
    return Checkpoint(
        **{
            part.removesuffix("."): {
                name.removeprefix(part): tensor
                for name, tensor in tensors.items()
                if name.startswith(part)
            }
            for part in (MODEL, OPTIMIZER)
        },
        state={
            **header["state"],
            "config": header["config"],
            "optimizer": header["optimizer"],
        },
    )


def _room_for(note: dict[str, Any], like: Tensor | None) -> Tensor:
    """An empty tensor for one in the header, cut as the model's own is."""
    dtype, shape = getattr(torch, note["dtype"]), torch.Size(note["shape"])
    if like is not None and like.shape == shape:
        return torch.empty_like(like, dtype=dtype)
    return torch.empty(shape, dtype=dtype)


def load_model(folder: str | Path) -> GPT:
    """The model of a checkpoint in pieces, whole, in this process.

    >>> load_model("nowhere")
    Traceback (most recent call last):
        ...
    llmbook.checkpoint.CheckpointError: there is no checkpoint at nowhere...
    """
    folder = Path(folder)
    header = read_header(folder)
    check_files(folder, header["files"])
    model = checkpoint.model_of(header["config"], folder)
    checkpoint.restore(load(folder, model), model)
    return model.eval()


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a folder, checked by its own SHA-256.

    Raises:
        DamagedError: it is missing or was changed.
        CheckpointError: there is no such folder, or the header is of
            another program or a newer version.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no checkpoint at {folder}. Train first, or give the "
            "folder that the run was saved in."
        )
    try:
        text = (folder / HEADER).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(folder / HEADER) from error
    digest, _, content = text.partition("\n")
    content = content.removesuffix("\n")
    if hashlib.sha256(content.encode()).hexdigest() != digest:
        raise _damaged(folder / HEADER)
    header = json.loads(content)
    if header.get("format") != FORMAT or not _stays_within(header):
        raise CheckpointError(
            f"{folder} was written by another program; expected a "
            f"checkpoint of format {FORMAT!r}."
        )
    if header["version"] > VERSION:
        raise CheckpointError(
            f"{folder} is a checkpoint of version {header['version']}; this "
            f"package reads up to {VERSION}. Install a newer llmbook."
        )
    return header


def _stays_within(header: dict[str, Any]) -> bool:
    """Whether every slice lies in one of the header's files, in its folder."""
    files = header.get("files", {})
    return all(Path(name).name == name for name in files) and all(
        part["file"] in files
        for tensor in header.get("tensors", {}).values()
        for part in tensor["slices"]
    )


def check_files(folder: Path, files: Files) -> None:
    """Compare files with their SHA-256.

    Raises:
        DamagedError: one is missing, cut short or changed.
    """
    for name, digest in files.items():
        file = folder / name
        if not file.is_file() or sha256_of(file) != digest:
            raise _damaged(file)


def _damaged(file: Path) -> DamagedError:
    return DamagedError(
        f"{file} is missing or has a wrong checksum: it was cut short, or "
        "changed after it was written. Copy the folder again, or use an "
        "older checkpoint."
    )


def settle(folder: Path, team: Team) -> None:
    """See to it that ``folder`` holds the newest checkpoint that is whole.

    The processes share the checking of the files. Where one is damaged, the
    first process puts the folder aside and the one before it in its place,
    with a :class:`~llmbook.checkpoint.CheckpointWarning`.

    Raises:
        DamagedError: neither is whole.
        CheckpointError: it is another program's or a newer version's.
    """
    before = checkpoint.previous_of(folder)
    why = _why_damaged(folder, team) if folder.is_dir() else "it is missing"
    if not why:
        return
    older = _why_damaged(before, team) if before.is_dir() else "it is missing"
    if older:
        raise DamagedError(
            f"{folder}: {why}. The one before it: {older}. Start anew in "
            "another folder."
        )
    team.wait()  # all have looked
    if team.speaks:
        aside = checkpoint.damaged_of(folder)
        shutil.rmtree(aside, ignore_errors=True)
        if folder.is_dir():
            os.replace(folder, aside)
        os.replace(before, folder)
        warnings.warn(
            f"{folder}: {why}. The run goes on from the checkpoint before it.",
            CheckpointWarning,
            stacklevel=2,
        )
    team.wait()


def _why_damaged(folder: Path, team: Team) -> str:
    """What is wrong with a folder, the same for all; "" if nothing is."""
    why = ""
    try:
        files = read_header(folder)["files"]
        mine = sorted(files)[team.rank :: team.size]
        check_files(folder, {name: files[name] for name in mine})
    except DamagedError as error:
        why = str(error)
    if team.most(int(bool(why))):
        return why or "another process found a damaged file"
    return ""


def _put_in_place(beside: Path, folder: Path) -> None:
    """Rename a folder that was written; the one before it is kept."""
    checkpoint.sync_folder(beside)
    if folder.exists():
        before = checkpoint.previous_of(folder)
        shutil.rmtree(before, ignore_errors=True)
        os.replace(folder, before)
    os.replace(beside, folder)
    checkpoint.sync_folder(folder.parent)
