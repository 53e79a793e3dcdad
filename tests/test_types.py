"""Type checks of wsol_utils: mypy, as pyproject.toml configures it, finds nothing but a mistake made on purpose."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_mypy_finds_a_mistake_made_here_and_no_other(tmp_path):
    (tmp_path / "mistake.py").write_text("from wsol_utils import pooling\n\npooling.build(3)\n", encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "wsol_utils"]
    done = subprocess.run([*command, str(tmp_path / "mistake.py")], cwd=ROOT, capture_output=True, text=True)
    [found] = done.stdout.splitlines()
    assert 'mistake.py:3: error: Argument 1 to "build" has incompatible type "int"; expected "str"' in found
