"""What is no array of finite numbers is refused, of either kind."""

import numpy as np
import pytest
import torch

from wsol_utils import checks


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1])
def test_refuses_what_is_not_a_finite_float(kind, bad):
    with pytest.raises(ValueError, match="weights must be floating point without NaN or infinity"):
        checks.floating(kind([bad, bad] if isinstance(bad, int) else [1.0, bad]), "weights")


def test_half_precision_and_gradients_become_an_array():
    assert checks.numpy(torch.ones(2, dtype=torch.bfloat16, requires_grad=True)).dtype == np.float32
    assert checks.numpy(torch.ones(2, dtype=torch.float64)).dtype == np.float64
