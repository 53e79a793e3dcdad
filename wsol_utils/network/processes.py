"""Work in several processes, on one machine or many, as torchrun starts them; in one process all of this does nothing.

Every process has its share of the images and the same weights; the first one writes. All of them must have the same
results folder, where the checkpoints lie that they go on from.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

RESTARTS = 3  # of all processes after one of them has died; then the run ends
START = "spawn"  # how multiprocessing starts a process


def rank() -> int:
    """Return which process this is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def gather(value: object) -> list | None:
    """Return every process's value, in the order of their ranks, in the first process; None in the others."""
    if size() == 1:
        return [value]
    everyone: list | None = [None] * size() if rank() == 0 else None
    distributed.gather_object(value, everyone)
    return everyone


def add(values: torch.Tensor) -> None:
    """Replace a tensor by the sum of every process's, in each of them."""
    if size() > 1:
        distributed.all_reduce(values)


def wait() -> None:
    """Wait until every process is here."""
    if size() > 1:
        distributed.barrier()


def launched() -> bool:
    """Tell whether torchrun, or `launch`, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


@contextmanager
def group(device: str) -> Iterator[None]:
    """Join the processes that torchrun started, for the time of the block; do nothing where there is one alone.

    Args:
        device: "cpu" or "cuda"; the processes of a machine share its cores, and each takes a GPU of its own.
    """
    if not launched() or distributed.is_initialized():
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ["LOCAL_WORLD_SIZE"])))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    yield
    distributed.destroy_process_group()  # not after an error: it would wait for processes that may be gone


def launch(processes: int, device: str, function: Callable, *arguments: object) -> None:
    """Call a function in several processes of one `group` on this machine, and wait for them.

    Torch's elastic launcher starts them. Where one dies, it starts all again, and they go on from what they have kept.

    Args:
        processes: how many.
        device: of the group.
        function: of a module, so that a new process can import it.
        arguments: what can be pickled.

    Raises:
        RuntimeError: if they cannot finish, with the error of the process that failed first.
    """
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=RESTARTS, start_method=START,
    )  # fmt: skip
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # a shared one keeps the addresses of those that died
    try:
        elastic_launch(config, _member)(device, function, *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        message = failure.message["message"] if isinstance(failure.message, dict) else failure.message
        raise RuntimeError(f"process {failure.local_rank} of {processes} failed: {message}") from error


@record
def _member(device: str, function: Callable, *arguments: object) -> None:
    with group(device):
        function(*arguments)
