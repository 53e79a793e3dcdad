"""Type checks of wsol_utils: mypy, as pyproject.toml configures it, finds nothing but a mistake made on purpose."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MISTAKE = """from wsol_utils import pooling

pooling.build(3)
"""


def test_mypy_finds_a_mistake_made_here_and_no_other(tmp_path):
    wrong = tmp_path / "mistake.py"
    wrong.write_text(MISTAKE, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "wsol_utils", str(wrong)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if ": error: " in line]
    ours, others = [[line for line in found if ("mistake.py" in line) is on_purpose] for on_purpose in (True, False)]
    assert not others and not done.stderr, "\n".join(others) + done.stderr
    assert done.returncode == 1 and len(ours) == 1
    assert 'mistake.py:3: error: Argument 1 to "build" has incompatible type "int"; expected "str"' in ours[0]
