"""Keep where a fine-tuning stands in a file, so that a run that was cut off goes on from there.

The file is one of `torch.save`, read with `weights_only`: nothing but tensors and plain values is ever loaded. It is
removed when the network is finished, which is a safetensors file.
"""

import io
import json
from pathlib import Path

import torch
from torch import nn

from wsol_utils.common import files
from wsol_utils.network import models


def keep(path: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Write a checkpoint, with the states of torch's random generators.

    Args:
        identity: of the run; `go_on` takes no other run's file.
        state: plain values: epoch, step, sums.
    """
    content = {"identity": identity, "state": state, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    content["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        content["random_cuda"] = torch.cuda.get_rng_state()
    packed = io.BytesIO()  # torch's own writer does not say why it failed
    torch.save(content, packed)
    with files.written(path) as temporary:
        temporary.write_bytes(packed.getbuffer())


def go_on(path: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict | None:
    """Put model, optimiser and random states back, and return the state; None where there is nothing of this very run.

    A file that is cut off, or another program's, counts as none: the run writes it anew.

    Raises:
        ValueError: if the file is damaged.
    """
    if not path.is_file():
        return None
    content = io.BytesIO(path.read_bytes())
    try:
        kept = torch.load(content, map_location="cpu", weights_only=True)
        known = kept["identity"] == identity
    except Exception:  # of many kinds
        print(f"{path.name} is cut off: it is made again")
        return None
    if not known:
        return None
    try:
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"] | {"param_groups": optimizer.state_dict()["param_groups"]})
        torch.set_rng_state(kept["random"])
        if torch.cuda.is_available() and "random_cuda" in kept:
            torch.cuda.set_rng_state(kept["random_cuda"])
        return kept["state"]
    except Exception as error:  # of many kinds, where bytes were changed
        raise ValueError(f"{path} is damaged ({error!r}): delete it and run again") from error


def finished(path: Path, identity: str, model: nn.Module) -> list[dict[str, float]] | None:
    """Read a finished run's network into `model` and return its history; None where there is nothing of this very run.

    A file that is cut off, or another program's, counts as none: the run writes it anew.
    """
    if not path.is_file():
        return None
    try:
        metadata = models.read_metadata(path)
    except ValueError:
        print(f"{path.name} is cut off: it is made again")
        return None
    if metadata.get("identity") != identity:
        return None
    models.load_into(model, path)
    return json.loads(metadata.get("history", "[]"))
