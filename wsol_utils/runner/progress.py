"""What the terminal shows while the runner executes a notebook: its cell and the time, on one line that is kept."""

import shutil
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from papermill.engines import NBClientEngine, papermill_engines

ENGINE = "told"  # papermill's name for `Told`
EVERY = 1.0  # seconds


class Line:
    """A line that begins with `text`; within the block, a terminal shows the cell and the elapsed time after it.

    What is printed after the block follows `text`. Where the output is no terminal, there is nothing but `text`.
    """

    def __init__(self, text: str) -> None:
        self.text, self.cell, self.width = text, "", len(text)
        self.out, self.start = sys.stdout, time.perf_counter()
        self.ended, self.clock = threading.Event(), threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Line":
        self.out.write(self.text)
        self.out.flush()
        if self.out.isatty():
            self.clock.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        if self.clock.ident is not None:
            self.clock.join()
            self._show("")
            self.out.write("\r" + self.text)
            self.out.flush()

    def tell(self, cell: int, cells: int) -> None:
        """Cell `cell` of `cells` has begun."""
        self.cell = f"cell {cell} of {cells}, "

    def _tick(self) -> None:
        while not self.ended.wait(EVERY):
            elapsed = timedelta(seconds=int(time.perf_counter() - self.start))
            self._show(f"{self.text}  {self.cell}{elapsed}")

    def _show(self, text: str) -> None:
        room = shutil.get_terminal_size().columns - 1  # a longer text would begin another line
        self.out.write("\r" + text.ljust(self.width)[:room])
        self.out.flush()
        self.width = len(text)


class Told(NBClientEngine):
    """papermill's own engine, which in addition calls `tell(cell, cells)` when a cell begins."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, tell: Callable[[int, int], None], **options: Any
    ) -> Any:
        begin = nb_man.cell_start

        def cell_start(cell: Any, cell_index: int = 0, **others: Any) -> Any:
            tell(cell_index + 1, len(nb_man.nb.cells))
            return begin(cell, cell_index, **others)

        nb_man.cell_start = cell_start
        return super().execute_managed_notebook(nb_man, kernel_name, **options)


papermill_engines.register(ENGINE, Told)
