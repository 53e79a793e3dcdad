"""Where a fine-tuning stands, as a file: written every so often, so that a run that was cut off goes on from it.

One safetensors file, under a temporary name first: the model, the optimiser and torch's random states as tensors, all
else as JSON in its header. No pickle.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wsol_utils.network import models, weights


def keep(path: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Write a checkpoint.

    Args:
        identity: of the run; `go_on` takes no other run's file.
        state: what JSON can hold: epoch, step, sums.
    """
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in values.items() if isinstance(value, Tensor)}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    models.write(tensors, path, {"identity": identity, "state": json.dumps(state)})


def go_on(path: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict | None:
    """Put model, optimiser and random states back; the state, or None where there is nothing of this very run.

    Raises:
        ValueError: if the file is damaged.
    """
    metadata = _metadata(path, identity)
    if metadata is None:
        return None
    try:
        named: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "random": {}}
        for key, value in load_file(path).items():
            kind, name = key.split(".", 1)
            named[kind][name] = value
        model.load_state_dict(named["model"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in named["optimizer"].items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        torch.set_rng_state(named["random"]["cpu"])
        if torch.cuda.is_available() and "cuda" in named["random"]:
            torch.cuda.set_rng_state(named["random"]["cuda"])
        return json.loads(metadata["state"])
    except Exception as error:  # of many kinds, where bytes were changed
        raise ValueError(f"{path} is damaged ({error!r}): delete it and run again") from error


def finished(path: Path, identity: str, model: nn.Module) -> list[dict[str, float]] | None:
    """Read a finished run's network into `model`; its history, or None where there is nothing of this very run."""
    metadata = _metadata(path, identity)
    if metadata is None:
        return None
    models.load_into(model, path)
    return json.loads(metadata.get("history", "[]"))


def _metadata(path: Path, identity: str) -> dict[str, str] | None:
    """The header of a whole file of this very run. One that is cut off counts as none, and is written again.

    Raises:
        PickleError: if somebody put a pickle there, which is let be.
    """
    if not path.is_file():
        return None
    try:
        metadata = models.read_metadata(path)
    except weights.PickleError:
        raise
    except ValueError:
        print(f"{path.name} is cut off: it is made again")
        return None
    return metadata if metadata.get("identity") == identity else None
