"""Two processes that exchange gradients over gloo on this machine, started by torchrun (see ``distributed_run``)."""

import subprocess
import sys
import time

import pytest
import torch

from .test_import import ENVIRONMENT, ROOT


def run(folder, kind, *arguments, processes=2):
    """Runs the script and returns what became of it, and what every process wrote."""
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes else []
    arguments = arguments if processes else (*arguments, "--strategy", "one")
    script = [str(ROOT / "tests" / "distributed_run.py"), kind, str(folder), *arguments]
    command = [sys.executable, "-W", "ignore", *launcher, *script]
    result = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=300)
    files = sorted(folder.glob("rank*.pt"))
    return result, [torch.load(file, weights_only=True) for file in files]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of the flow."""
    return run(tmp_path_factory.mktemp("alone"), "flow", processes=0)[1][0]


def close(state, other, atol):
    single = {k: v.dtype == torch.float32 for k, v in state.items()}
    return all(torch.allclose(v, other[k], rtol=0, atol=1e-6 if single[k] else atol) for k, v in state.items())


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [*((k, "ddp") for k in ("flow", "traced", "game", "vae")), *((k, "fsdp") for k in ("flow", "game", "vae", "odd"))],
)
def test_ranks_end_every_epoch_with_the_same_weights(kind, strategy, alone, tmp_path):
    """The first one's start, data-dependent initialisation and running statistics included; noise is each one's own.

    Without noise, the weights are those of one process. Under fsdp callbacks see plain parameters, and each process
    holds half of what the optimizer remembers.
    """
    result, ranks = run(tmp_path, kind, "--strategy", strategy)
    assert result.returncode == 0, result.stderr[-2000:]
    first, second = ranks
    assert len(first["epochs"]) == 6
    assert all(torch.equal(a, b) for a, b in zip(first["epochs"], second["epochs"], strict=True))
    assert not torch.equal(first["epochs"][0], first["epochs"][-1])
    assert not torch.equal(first["noise"], second["noise"])
    assert (first["told"], second["told"]) == (6, 0)  # only the first process tells the logger
    if kind == "odd":
        _, (alone,) = run(tmp_path / "alone", "odd", processes=0)
    if kind in ("flow", "traced", "odd"):
        assert close(alone["state"], first["state"], 1e-12 if strategy == "ddp" else 1e-10)
        assert alone["loss"] == pytest.approx(first["loss"], abs=1e-7)
    if strategy == "fsdp":
        assert all(first["plain"]) and all(second["plain"])
    if (kind, strategy) == ("flow", "fsdp"):
        (held, total), (other, _) = first["held"], second["held"]
        assert held + other == total and 0.4 < held / total < 0.6


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_rank_that_dies_ends_the_job_and_it_goes_on_with_another_number(strategy, alone, tmp_path):
    """Within a minute; gone on from in every way, it ends as a job left alone (float64, no noise)."""
    start = time.monotonic()
    result, ranks = run(tmp_path, "flow", "--keep", "--die", "3", "--strategy", strategy)
    assert result.returncode != 0 and not ranks and time.monotonic() - start < 60
    content = (tmp_path / "run.ckpt").read_bytes()
    for way, processes in (("ddp", 2), ("fsdp", 2), ("one", 0)):
        folder = tmp_path / way
        folder.mkdir()
        (folder / "run.ckpt").write_bytes(content)
        result, ranks = run(folder, "flow", "--keep", "--strategy", way, processes=processes)
        assert result.returncode == 0, result.stderr[-2000:]
        assert 1 <= len(ranks[0]["epochs"]) < 6  # it did not start anew
        assert close(alone["state"], ranks[0]["state"], 1e-10)


def test_sharded_weights_are_whole_again_however_training_ends(tmp_path):
    """By SIGTERM or Ctrl-C at one process, by weights that are not finite, by a loss that is not at one process.

    A run that was to be compiled says once that it is not.
    """
    result, ranks = run(tmp_path, "ends")
    assert result.returncode == 0, result.stderr[-2000:]
    names = ["SystemExit", "KeyboardInterrupt", "NonFiniteError", "NonFiniteError"]
    assert [name for name, *_ in ranks[0]] == [name for name, *_ in ranks[1]] == names
    for (_, weights, *rest), (_, others, *also) in zip(*ranks, strict=True):
        assert rest == also == [True, 1] and torch.equal(weights, others) and weights.isfinite().all()


def test_pyro_programs_train_alike_sharded_and_not(tmp_path):
    """Whether Pyro's store knows the parameters beforehand or hears of them in a step."""
    result, ranks = run(tmp_path, "programs")
    assert result.returncode == 0, result.stderr[-2000:]
    for found in ranks:
        assert all(plain for *_, plain in found)
        weights = [w for _, w, _ in found]
        assert torch.allclose(weights[0], weights[1], rtol=0, atol=1e-10)
        assert torch.allclose(weights[2], weights[3], rtol=0, atol=1e-10)
        assert torch.equal(weights[0], ranks[0][0][1])


def test_every_model_trains_alike_sharded_and_not(tmp_path):
    """Whatever its masks, transforms, priors and players read of its weights, and when (float64)."""
    result, ranks = run(tmp_path, "zoo")
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(ranks[0]) > 15
    for name, (difference, change) in ranks[0].items():
        assert difference < 1e-10 < 1e-4 < change, name
