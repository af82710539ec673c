"""Every test starts from the same state: seeded, validation on, empty parameter store, one thread."""

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_state():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pyro.clear_param_store()
    pyro.enable_validation(True)
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)
