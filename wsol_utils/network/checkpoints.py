"""Where a fine-tuning stands, as a file: written every so often, so that a run that was cut off goes on from it.

One file of `torch.save`, under a temporary name first, and read with `weights_only`: nothing but tensors and plain
values is ever loaded. It is this program's own, and goes when the network is finished, which is safetensors.
"""

import io
import json
from pathlib import Path

import torch
from torch import nn

from wsol_utils.common import files
from wsol_utils.network import models, weights


def keep(path: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Write a checkpoint.

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
    """Put model, optimiser and random states back; the state, or None where there is nothing of this very run.

    A file that is cut off or another program's counts as none, and is written again.

    Raises:
        ValueError: if the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, the system's among them where torch seeks a place that is none
        if isinstance(error, OSError) and error.filename:
            raise  # the file cannot be opened
        print(f"{path.name} is cut off: it is made again")
        return None
    if not isinstance(kept, dict) or kept.get("identity") != identity:
        return None
    try:
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"] | {"param_groups": optimizer.state_dict()["param_groups"]})
        torch.set_rng_state(kept["random"])
        if torch.cuda.is_available() and "random_cuda" in kept:
            torch.cuda.set_rng_state(kept["random_cuda"])
        return kept["state"]
    except Exception as error:  # likewise, where bytes were changed
        raise ValueError(f"{path} is damaged ({error!r}): delete it and run again") from error


def finished(path: Path, identity: str, model: nn.Module) -> list[dict[str, float]] | None:
    """Read a finished run's network into `model`; its history, or None where there is nothing of this very run.

    A file that is cut off counts as none, and is written again.

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
    if metadata.get("identity") != identity:
        return None
    models.load_into(model, path)
    return json.loads(metadata.get("history", "[]"))
