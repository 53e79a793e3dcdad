"""What a machine without a folder for compiled code sees; the loops themselves are tested with boxes and thresholds."""

import os
import subprocess
import sys
from pathlib import Path

from wsol_utils.boxes import compiled


def test_nothing_can_be_kept(tmp_path):
    """Neither beside the file nor in the user's folder: the loops are compiled all the same."""
    (tmp_path / "copied.py").write_bytes(Path(compiled.__file__).read_bytes())
    for name in ("__pycache__", "file"):  # files, where folders would have to be made
        (tmp_path / name).write_text("")
    command = (
        "import copied, numpy as np; levels = copied._find_levels(np.eye(2), np.array([0, 0.5, 1]));"
        "print(type(copied._find_levels._cache).__name__, levels[1:-1, 1:-1].tolist())"
    )
    home = str(tmp_path / "file")
    environment = os.environ | {"HOME": home, "XDG_CACHE_HOME": home, "LOCALAPPDATA": home, "NUMBA_CACHE_DIR": ""}
    run = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split(" ", 1) == ["NullCache", "[[2, 0], [0, 2]]\n"]
