"""What several test files ask for."""

import hypothesis
import pytest
import torch

from wsol_utils import experiments

# No test fails because a machine is slow.
hypothesis.settings.register_profile("slow", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("slow")


@pytest.fixture
def one_thread():
    """One thread in torch for a test, then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_disk():
    """No file may be larger than 64 KiB."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def alone(monkeypatch, one_thread):
    """One thread, and results where the configuration says."""
    monkeypatch.delenv("WSOL_RESULTS", raising=False)


@pytest.fixture
def config(tmp_path):
    """Birds of the sample with two seeds, six files that are no pictures, and results of their own."""
    (tmp_path / "photographs").mkdir()
    for i in range(6):
        (tmp_path / "photographs" / f"{i}.png").write_bytes(b"a picture")
    places = {"data_root": str(tmp_path / "photographs"), "results": str(tmp_path / "results")}
    return experiments.configure("birds", seeds="0,1", device="cpu", **places)
