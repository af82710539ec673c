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


@pytest.fixture
def replayed_not_compiled(monkeypatch):
    """Steps replay their graph; compiling it would take longer than the test."""
    monkeypatch.setattr("pyro_dgm.training.assembly.inductor", lambda graph, inputs: graph)
