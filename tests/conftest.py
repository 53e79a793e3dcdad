"""What several test files ask for."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """One thread in torch for a test, then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
