"""What the tests share: a results folder of their own, so that no earlier run is checked in place of the code."""

import os
import shutil
import tempfile

collect_ignore_glob = ["notebooks/08_*.ipynb"]  # it measures speed for minutes; tests/test_benchmarks.py runs it small

RESULTS = tempfile.mkdtemp(prefix="wsol-results-")

# read by wsol_utils.experiments.results_root, in the kernels of nbval too
os.environ["WSOL_RESULTS"] = RESULTS
os.environ["TQDM_DISABLE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in dodo.py


def pytest_unconfigure(config):
    shutil.rmtree(RESULTS, ignore_errors=True)
