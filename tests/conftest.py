"""What several test files ask for."""

import hypothesis
import pytest
import torch
from layouts_on_disk import cub, weights_file

from wsol_utils import experiments, models, preparation, stages

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


@pytest.fixture
def small_cub(tmp_path):
    """A function: the configuration of ten train and four test images of two classes, and weights to start from."""
    cub(tmp_path / "cub", train=5, test=2)
    torch.manual_seed(0)
    weights_file(tmp_path / "small.safetensors", models.SmallVGG(), "features.")

    def configured(results="results", **values):
        usual = {"backbone": "small_vgg", "image_size": 32, "resize_size": 36, "batch_size": 4, "epochs": 1, "lr": 1e-3}
        usual |= {"data_root": str(tmp_path / "cub"), "weights": str(tmp_path / "small.safetensors"), "device": "cpu"}
        return experiments.configure("cub", "paper", **usual | {"results": str(tmp_path / results)} | values)

    return configured


@pytest.fixture
def trained(small_cub):
    """(configuration, annotations) after an epoch of fine-tuning with WGAP."""
    config = small_cub(poolings="wgap")
    table = preparation.prepare(config)
    history = stages.train(config, table, 0, "wgap", stages.starting_weights(config, 0))
    assert [epoch["epoch"] for epoch in history] == [1] and "seconds" not in history[0]
    return config, table
