"""What the tests share: a results folder of their own, so that no earlier run is checked in place of the code."""

import os
import re
import shutil
import socket
import tempfile

from matplotlib import font_manager  # noqa: F401  a slow machine would announce its font cache in a notebook

collect_ignore_glob = ["notebooks/08_*.ipynb"]  # it measures speed for minutes; tests/test_benchmarks.py runs it small

LOOPBACK = re.compile(r"127\.|::1$|localhost$|0\.0\.0\.0$|::$")
RESULTS = tempfile.mkdtemp(prefix="wsol-results-")

# read by wsol_utils.experiment.experiments.results_root, in the kernels of nbval too
os.environ["WSOL_RESULTS"] = RESULTS
os.environ["TQDM_DISABLE"] = "1"
os.environ["WSOL_ASSERT_BANDS"] = "1"  # notebooks 03 to 05 fail where a headline figure leaves its band
os.environ |= {
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "127.0.0.1,localhost",
}
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in dodo.py


def pytest_unconfigure(config):
    shutil.rmtree(RESULTS, ignore_errors=True)


def pytest_configure(config):
    """No test reaches beyond this machine, and what it starts meets a proxy that is not there."""
    connect = socket.socket.connect

    def here_alone(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not LOOPBACK.match(str(address[0])):
            raise ConnectionRefusedError(f"a test asked for {address}: tests do without a network")
        return connect(self, address)

    socket.socket.connect = here_alone
