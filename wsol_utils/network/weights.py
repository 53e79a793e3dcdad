"""Read a network's weights from a safetensors file, or convert them from a PyTorch pickle.

A file's names may differ from the network's by a wrapper's prefix, and where torch and torchvision allow it.
"""

import argparse
import re
import shlex
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

STARTS = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))  # torch.save's files, new and old
WITHIN = ("", "state_dict", "model_state_dict", "model", "network", "net", "module", "weights")  # the first one counts


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Explain an error of safetensors: what the file is, and what to do.

    Raises:
        ValueError: if the file is cut off or no safetensors file; for a pickle it names the command that converts it.
    """
    try:
        yield
    except (SafetensorError, ValueError) as error:  # the latter of the header's text
        if is_pickle(path):
            out = Path(path).with_suffix(".safetensors")
            out = out if out != Path(path) else out.with_stem(f"{out.stem}_converted")
            raise ValueError(
                f"{path} is a PyTorch pickle, which could run code: convert it once, "
                f"python -m wsol_utils convert {shlex.quote(str(path))} {shlex.quote(str(out))}, and give the new file"
            ) from error
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}): copy it again from where it came, or name another one"
        ) from error


def read(path: str | Path, name: str) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Args:
        name: the network's, for messages.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: as `explained`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights file {path} does not exist; give a safetensors state dict of {name}")
    with explained(path):
        return load_file(path)


def _prefix(keys: Collection[str], own: Collection[str]) -> str:
    """Find the shortest prefix of the keys without which the network knows one of them; '' where there is none."""
    first = next(iter(keys), "")
    prefixes = ("", *(first[: dot.end()] for dot in re.finditer(r"\.", first)))
    return next((some for some in prefixes if any(key.removeprefix(some) in own for key in keys)), "")


def put(
    network: nn.Module, state: Mapping[str, Tensor], path: str | Path, name: str, needed: Collection[str] = ()
) -> None:
    """Load a state dict into a network, in the network's own precision.

    A wrapper's prefix before all keys is left out, and stderr says so: "module." of DataParallel, "_orig_mod." of
    torch.compile, "model." of Lightning, or several of them. DenseNet's layers may have their former names ("norm.1"
    for "norm1").

    Args:
        path, name: of the file and of the network, for messages.
        needed: the network's keys that the file must hold; by default all. Counters of batches are never needed.

    Raises:
        ValueError: if the weights are another network's, or not finite in this one's precision.
    """
    own = network.state_dict()
    prefix, found = _prefix(state, own), dict[str, Tensor]()
    for key, value in state.items():
        bare = key.removeprefix(prefix)
        found[bare if bare in own else re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", bare)] = value
    needed = [key for key in needed or own if key in found or not key.endswith("num_batches_tracked")]
    wrong = [key for key in needed if key not in found or not _fits(found[key], own[key])]
    wrong += [key for key in found if key not in own]
    if wrong:
        raise ValueError(
            f"{path} holds the weights of another network than {name}: {wrong[0]!r} is missing, of another shape or "
            f"not {name}'s ({len(wrong)} such tensors); give WEIGHTS with {name}'s own keys, or change BACKBONE"
        )
    for key in needed:
        if not found[key].to(own[key].dtype).isfinite().all():
            raise ValueError(f"{path}: {key!r} holds NaN or infinity: give weights that are finite")
    own.update({key: found[key] for key in needed})  # keeps the dict's version, which MNASNet asks for
    network.load_state_dict(own)
    if prefix:
        print(f"{path}: the prefix {prefix!r} of all keys is left out", file=sys.stderr)


def _fits(value: Tensor, own: Tensor) -> bool:
    return value.shape == own.shape and (value.is_floating_point() or not own.is_floating_point())


def is_pickle(path: str | Path) -> bool:
    """Tell by a file's first bytes whether torch.save wrote it, whatever its name."""
    with open(path, "rb") as file:
        start = file.read(9)
    return start.startswith(STARTS) and start[8:] != b"{"  # where a safetensors file's header begins


def unpickle(path: str | Path) -> tuple[str, dict[str, Tensor]]:
    """Read the state dict in a file of torch.save without running what the file holds.

    Returns:
        The key that it lies under, "" where it is the whole file; and its tensors, none of which share memory.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if the file is no pickle, is cut off, or holds no state dict.
    """
    remedy = "copy it again from where it came, or save the weights alone, torch.save(model.state_dict(), …)"
    if not is_pickle(path):
        raise ValueError(f"{path} is no PyTorch pickle: nothing is converted; a safetensors file is used as it is")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the errors say
            with torch.serialization.safe_globals([argparse.Namespace]):  # a trainer's options beside the weights
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, where a file is cut off
        other = re.search(r"GLOBAL (\S+)", str(error))
        problem = f"holds {other[1]}, which is no tensor" if other else re.split(r"\. |\n", str(error))[0]
        raise ValueError(f"{path} cannot be read ({problem}): {remedy}") from error
    within = {"": loaded, **loaded} if isinstance(loaded, dict) else {}
    found = [key for key, value in within.items() if _is_state_dict(value)]
    key = next((key for key in WITHIN if key in found), found[0] if len(found) == 1 else None)
    if key is None:
        listed = ", ".join(f"{key!r} ({type(value).__name__})" for key, value in list(within.items())[1:20])
        raise ValueError(f"{path} holds no state dict, or several; its keys are {listed or 'none'}: {remedy}")
    return key, {name: value.detach().clone() for name, value in within[key].items()}


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
    )
