"""The one way in which a notebook is executed: by papermill."""

import logging
import sys
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError

from wsol_utils.common import files

LOST = (
    "as happens when memory runs out: close other programs, or lower BATCH_SIZE, PREDICTION_BATCH_SIZE or CACHE_GB, "
    "then run again; what was finished is kept"
)


class Failed(RuntimeError):
    """A notebook did not come to its end; the text says why, in a line."""


def execute(
    notebook: Path, target: Path, parameters: dict[str, Any] | None = None, folder: Path | None = None, bar: str = ""
) -> None:
    """Execute a notebook, and write it once it has come to its end: whole, or not at all.

    Args:
        parameters: what papermill's own cell assigns; without any there is no such cell.
        folder: where it runs, if not where it lies.
        bar: the name of papermill's progress bar, which only a terminal shows.

    Raises:
        Failed: naming the cell and its error, a process that was lost, or the file that could not be written.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)  # the notebooks refuse unknown parameters themselves
    running = target.with_name(f".running.{target.name}")
    try:
        with files.explained(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            papermill.execute_notebook(
                notebook, running, parameters or {}, cwd=folder or notebook.parent, kernel_name="python3",
                progress_bar={"desc": bar, "leave": False, "disable": not (bar and sys.stderr.isatty())},
                log_output=False, start_timeout=600,
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # nothing of connections and interrupts
            )  # fmt: skip
            files.put(running, target)
    except PapermillExecutionError as error:
        raise Failed(f"cell {error.cell_index + 1}: {error.ename}: {error.evalue}") from error
    except RuntimeError as error:  # of nbclient, which lost the kernel
        raise Failed(f"its process died ({error}), {LOST}") from error
    except OSError as error:  # of the runner's own files
        raise Failed(str(error)) from error
