"""Execute a notebook by papermill."""

import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from wsol_utils.common import files

LOST = (
    "as happens when memory runs out: close other programs, or lower BATCH_SIZE, PREDICTION_BATCH_SIZE or CACHE_GB, "
    "then run again; what was finished is kept"
)


class Failed(RuntimeError):
    """A notebook did not come to its end; the message is one line that says why."""


def execute(notebook: Path, target: Path, parameters: dict[str, Any] | None = None, bar: str = "") -> None:
    """Execute a notebook in its folder, and write it whole once it has come to its end.

    Args:
        parameters: values that papermill's own cell assigns; without any there is no such cell.
        bar: the name of papermill's progress bar, which only a terminal shows.

    Raises:
        Failed: names the cell and its error, a process that was lost, or the file that could not be written.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)  # the notebooks refuse unknown parameters themselves
    running = target.with_name(f".running.{target.name}")
    try:
        with files.explained(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            papermill.execute_notebook(
                notebook, running, parameters or {}, cwd=notebook.parent, kernel_name="python3",
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


def in_place(path: Path) -> None:
    """Execute a notebook, and write its outputs into the notebook itself, without papermill's metadata.

    Raises:
        Failed: as `execute`; the notebook stays as it was.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        execute(path, Path(elsewhere, path.name), bar=path.name)
        notebook = nbformat.read(Path(elsewhere, path.name), as_version=4)
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags" and value}
        for output in cell.get("outputs", []):  # a widget needs its kernel
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    with files.written(path) as temporary:
        nbformat.write(notebook, temporary)
