"""Read a network's weights as users have them: a safetensors file, or a pickle that is converted first.

Their keys may differ from the network's in what torch and torchvision pass over, too, and in one prefix.
"""

import argparse
import codecs
import pickle
import re
import shlex
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

STARTS = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))  # torch.save's files, new and old
WITHIN = ("state_dict", "model_state_dict", "model", "network", "net", "module", "weights")  # the first one counts
ALONE = "torch.save(model.state_dict(), …)"
SCALAR = np.float64(0).__reduce__()[0]  # how NumPy's numbers are pickled
BESIDE: list[Any] = [  # trainers often keep options and NumPy's numbers beside the weights: data that run nothing
    argparse.Namespace, codecs.encode, np.dtype, *{type(np.dtype(kind)) for kind in "?ilqfde"}, SCALAR,
    (SCALAR, "numpy.core.multiarray.scalar"), (SCALAR, "numpy._core.multiarray.scalar"),
]  # fmt: skip


class PickleError(ValueError):
    """A PyTorch pickle in place of a safetensors file."""


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """An error of safetensors says what the file is, and what can be done.

    Raises:
        PickleError: naming the command that converts it.
        ValueError: the file is cut off, or something else.
    """
    try:
        yield
    except SafetensorError as error:
        if is_pickle(path):
            out = Path(path).with_suffix(".safetensors")
            out = out if out != Path(path) else out.with_stem(f"{out.stem}_converted")
            raise PickleError(
                f"{path} is a PyTorch pickle, which could run code: convert it once, "
                f"python -m wsol_utils convert {shlex.quote(str(path))} {shlex.quote(str(out))}, and give the new file"
            ) from error
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}): copy it again from where it came, or name another one"
        ) from error


def read(path: str | Path, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; `name` is the network's, for messages.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: as `explained`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights file {path} does not exist; give a safetensors state dict of {name}")
    with explained(path):
        return load_file(path)


def renamed(keys: Collection[str], own: Collection[str]) -> dict[str, str]:
    """Each key by what the network calls it; one that the network does not know stays as it is.

    A wrapper's prefix before all keys is left out ("module." of DataParallel, "_orig_mod." of torch.compile, "model."
    of Lightning, or several of them), and DenseNet's layers may have the names of an earlier day.
    """
    prefix = _prefix(keys, set(own))
    names = {}
    for key in keys:
        name = key.removeprefix(prefix)
        later = re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", name)
        names[key] = later if name not in own and later in own and prefix + later not in keys else name
    return names


def _prefix(keys: Collection[str], own: set[str]) -> str:
    prefix, rest = "", list(keys)
    while rest and not own.intersection(rest):
        first = rest[0].partition(".")[0] + "."
        if not all(key.startswith(first) for key in rest):
            return ""
        prefix, rest = prefix + first, [key.removeprefix(first) for key in rest]
    return prefix


def put(
    network: nn.Module, state: Mapping[str, Tensor], path: str | Path, name: str, needed: Collection[str] = ()
) -> None:
    """Load a state dict into a network, in the network's own precision; a prefix that is left out is said on stderr.

    Args:
        path, name: of the file and of the network, for messages.
        needed: the network's keys that must be there; all, if none is given. A counter of batches never must.

    Raises:
        ValueError: if it is of another network.
    """
    own = network.state_dict()
    names = renamed(state, own)
    found = {names[key]: value for key, value in state.items()}
    needed = [key for key in needed or own if key in found or not key.endswith("num_batches_tracked")]
    wrong = [key for key in needed if key not in found or not _fits(found[key], own[key])]
    wrong += [key for key in found if key not in own]
    if wrong:
        raise ValueError(
            f"{path} holds the weights of another network than {name}: {wrong[0]!r} is missing, of another shape or "
            f"not {name}'s ({len(wrong)} such tensors); give WEIGHTS with {name}'s torchvision keys, or change BACKBONE"
        )
    own.update({key: found[key] for key in needed})  # in its own dict, whose version MNASNet asks for
    network.load_state_dict(own)
    if prefix := _prefix(state, set(own)):
        print(f"{path}: the prefix {prefix!r} of all keys is left out", file=sys.stderr)


def _fits(value: Tensor, own: Tensor) -> bool:
    return value.shape == own.shape and (value.is_floating_point() or not own.is_floating_point())


def require_finite(network: nn.Module, path: str | Path) -> None:
    """Refuse weights from a file that hold NaN or infinity, or do once they have the network's precision.

    Raises:
        ValueError: naming the file and the first such tensor.
    """
    for key, value in network.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(f"{path}: {key!r} holds NaN or infinity: give weights that are finite")


def is_pickle(path: str | Path) -> bool:
    """Whether a file begins as those of torch.save do, which its name need not say."""
    with open(path, "rb") as file:
        start = file.read(9)
    return start.startswith(STARTS) and start[8:] != b"{"  # where a safetensors file's header begins


def unpickle(path: str | Path) -> tuple[str, dict[str, Tensor]]:
    """The state dict in a file of torch.save, which is read without running what it holds.

    Returns:
        The key that it lies under, "" where it is the whole file; and its tensors, none of which share memory.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no such file, or holds something else than tensors; it names what.
    """
    if not is_pickle(path):
        raise ValueError(f"{path} is no PyTorch pickle: nothing is converted; a safetensors file is used as it is")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the errors say
            with torch.serialization.safe_globals(BESIDE):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        told = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        what = re.search(r"GLOBAL (\S+)", told)
        holds = f"{what[1]}, which is no tensor" if what else f"what torch does not read as tensors ({told})"
        raise ValueError(f"{path} holds {holds}: where it was made, save the weights alone, {ALONE}") from error
    except OSError:
        raise
    except Exception as error:  # of many kinds, where a file is cut off
        told = str(error).partition(". ")[0]
        raise ValueError(
            f"{path} cannot be read ({told}): copy it again from where it came, or save the weights alone, {ALONE}"
        ) from error
    key, state = _state_dict(path, loaded)
    return key, {name: value.detach().clone() for name, value in state.items()}


def _state_dict(path: str | Path, loaded: Any) -> tuple[str, dict[str, Tensor]]:
    """The only state dict in what was loaded, or the one with a usual name; and its key."""
    if _is_state_dict(loaded):
        return "", loaded
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} holds a {type(loaded).__name__} and no state dict: save the weights alone, {ALONE}")
    found = [key for key, value in loaded.items() if _is_state_dict(value)]
    usual = [key for key in WITHIN if key in found] or found
    if usual and (len(found) == 1 or usual[0] in WITHIN):
        return str(usual[0]), loaded[usual[0]]
    listed = ", ".join(f"{key!r} ({type(value).__name__})" for key, value in loaded.items())
    count = "several state dicts" if found else "no state dict of tensors"
    raise ValueError(
        f"{path} holds {count}, and none under {', '.join(WITHIN)}; its keys are {listed[:500] or 'none'}: save the "
        f"weights alone, {ALONE}"
    )


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(map(_is_plain, value.values()))
        and all(isinstance(key, str) for key in value)
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
