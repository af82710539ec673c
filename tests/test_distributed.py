"""Two processes that exchange gradients over gloo on this machine, started by torchrun (see ``distributed_run``)."""

import subprocess
import sys
import time

import pytest
import torch

from .test_import import ENVIRONMENT, ROOT


def run(folder, kind, *arguments, processes=2):
    """Runs the script and returns what became of it, and what every process wrote."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes else []
    script = [str(ROOT / "tests" / "distributed_run.py"), kind, str(folder), *arguments]
    command = [sys.executable, "-W", "ignore", *launcher, *script]
    result = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=300)
    files = sorted(folder.glob("rank*.pt"))
    return result, [torch.load(file, weights_only=True) for file in files]


@pytest.mark.parametrize("kind", ["flow", "traced", "game", "vae"])
def test_ranks_end_every_epoch_with_the_same_weights(kind, tmp_path):
    """The first one's start, data-dependent initialisation and running statistics included; noise is each one's own."""
    result, ranks = run(tmp_path, kind)
    assert result.returncode == 0, result.stderr[-2000:]
    first, second = ranks
    assert len(first["epochs"]) == 4
    assert all(torch.equal(a, b) for a, b in zip(first["epochs"], second["epochs"], strict=True))
    assert not torch.equal(first["epochs"][0], first["epochs"][-1])
    assert not torch.equal(first["noise"], second["noise"])
    assert (first["told"], second["told"]) == (4, 0)  # only the first process tells the logger
    if kind in ("flow", "traced"):
        (tmp_path / "alone").mkdir()
        _, (alone,) = run(tmp_path / "alone", "one", processes=0)
        assert all(torch.allclose(v, first["state"][k], rtol=0, atol=1e-12) for k, v in alone["state"].items())


def test_a_rank_that_dies_ends_the_job_and_it_goes_on_with_another_number(tmp_path):
    """Within a minute; resumed on one process and on two it ends as a job left alone (float64, no noise)."""
    start = time.monotonic()
    result, ranks = run(tmp_path, "flow", "--epochs", "6", "--die", "3")
    assert result.returncode != 0 and not ranks and time.monotonic() - start < 60
    content = (tmp_path / "run.ckpt").read_bytes()
    ends = []
    for processes in (2, 1):
        folder = tmp_path / str(processes)
        folder.mkdir()
        (folder / "run.ckpt").write_bytes(content)
        result, ranks = run(folder, "flow", "--epochs", "6", processes=processes)
        assert result.returncode == 0, result.stderr[-2000:]
        assert 1 <= len(ranks[0]["epochs"]) < 6  # it did not start anew
        ends.append(ranks[0]["state"])
    (tmp_path / "alone").mkdir()
    _, alone = run(tmp_path / "alone", "flow", "--epochs", "6")
    for end in ends:
        assert all(torch.allclose(v, end[k], rtol=0, atol=1e-10) for k, v in alone[0]["state"].items())
