"""Two processes that exchange gradients over gloo on this machine, started by torchrun (see ``distributed_run``).

A start takes longer than most runs, so all runs that end in order are made one after the other after a single one.
"""

import re
import subprocess
import sys
import time

import pytest
import torch

from .test_import import ENVIRONMENT, ROOT

pytestmark = pytest.mark.xdist_group("distributed")  # one start, in one of pytest's processes
TELLING = re.compile(r"Error|Exception|terminate|what\(\)|Fatal|[Ss]ignal|Aborted|^ *File ")
EQUAL = [
    *((k, "ddp") for k in ("flow", "traced", "game", "spectral", "vae")),
    *((k, "fsdp") for k in ("flow", "game", "spectral", "vae", "odd")),
]
DIED = "ddp", "fsdp"
WHOLE = "programs-both", "zoo-both", "ends-fsdp"


def start(folder, *runs, processes=2):
    """Makes the runs, each KIND-STRATEGY in a folder of that name, and returns what became of the processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes else []
    command = [
        sys.executable,
        "-W",
        "ignore",
        *launcher,
        str(ROOT / "tests" / "distributed_run.py"),
        str(folder),
        *runs,
    ]
    environment = {**ENVIRONMENT, "PYTHONFAULTHANDLER": "1"}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)


def found(folder):
    """What every process wrote at the end of a run."""
    return [torch.load(file, weights_only=True) for file in sorted(folder.glob("rank*.pt"))]


def why(result):
    """The lines of the processes' output that say what went wrong, which are seldom the last, and the last."""
    output = result.stdout + result.stderr
    telling = [line for line in output.splitlines() if TELLING.search(line)]
    return "\n".join([f"exit status {result.returncode}", *telling[:60], "...", output[-2000:]])


@pytest.fixture(scope="module")
def dead(tmp_path_factory):
    """A job for each strategy whose second process dies in epoch 3: what became of it, how fast, and its folder."""
    ends = {}
    for strategy in DIED:
        folder, begin = tmp_path_factory.mktemp(strategy), time.monotonic()
        result = start(folder, f"flow-{strategy}-die")
        ends[strategy] = result, time.monotonic() - begin, folder / f"flow-{strategy}-die"
    return ends


@pytest.fixture(scope="module")
def together(dead, tmp_path_factory):
    """A folder with what two processes, and one, make of all runs; those that go on do so from where a job died."""
    folder = tmp_path_factory.mktemp("together")
    several, one = [f"{kind}-{strategy}" for kind, strategy in EQUAL], ["flow-one", "odd-one"]
    for strategy, (*_, dying) in dead.items():
        for way in ("ddp", "fsdp", "one"):
            run = f"flow-{way}-after_{strategy}"
            (folder / run).mkdir()
            (folder / run / "run.ckpt").write_bytes((dying / "run.ckpt").read_bytes())
            (one if way == "one" else several).append(run)
    for runs, processes in ((one, 0), ([*several, *WHOLE], 2)):
        result = start(folder, *runs, processes=processes)
        assert result.returncode == 0, why(result)
    return folder


@pytest.fixture(scope="module")
def alone(together):
    """What one process makes of the flow."""
    return found(together / "flow-one")[0]


def close(state, other, atol):
    single = {k: v.dtype == torch.float32 for k, v in state.items()}
    return all(torch.allclose(v, other[k], rtol=0, atol=1e-6 if single[k] else atol) for k, v in state.items())


@pytest.mark.parametrize(("kind", "strategy"), EQUAL)
def test_ranks_end_every_epoch_with_the_same_weights(kind, strategy, alone, together):
    """The first one's start, data-dependent initialisation and running statistics included; noise is each one's own.

    Without noise, the weights are those of one process. Under fsdp callbacks see plain parameters, and each process
    holds half of what the optimizer remembers.
    """
    first, second = found(together / f"{kind}-{strategy}")
    assert len(first["epochs"]) == 6
    assert all(torch.equal(a, b) for a, b in zip(first["epochs"], second["epochs"], strict=True))
    assert not torch.equal(first["epochs"][0], first["epochs"][-1])
    assert not torch.equal(first["noise"], second["noise"])
    assert (first["told"], second["told"]) == (6, 0)  # only the first process tells the logger
    if kind == "odd":
        (alone,) = found(together / "odd-one")
    if kind in ("flow", "traced", "odd"):
        assert close(alone["state"], first["state"], 1e-12 if strategy == "ddp" else 1e-10)
        assert alone["loss"] == pytest.approx(first["loss"], abs=1e-7)
    if strategy == "fsdp":
        assert all(first["plain"]) and all(second["plain"])
    if (kind, strategy) == ("flow", "fsdp"):
        (held, total), (other, _) = first["held"], second["held"]
        assert held + other == total and 0.4 < held / total < 0.6


@pytest.mark.parametrize("strategy", DIED)
def test_a_rank_that_dies_ends_the_job_and_it_goes_on_with_another_number(strategy, dead, alone, together):
    """Within a minute; gone on from in every way, it ends as a job left alone (float64, no noise)."""
    result, seconds, folder = dead[strategy]
    assert result.returncode != 0 and not found(folder) and seconds < 60, why(result)
    for way in ("ddp", "fsdp", "one"):
        ranks = found(together / f"flow-{way}-after_{strategy}")
        assert len(ranks) == (1 if way == "one" else 2)
        assert 1 <= len(ranks[0]["epochs"]) < 6  # it did not start anew
        assert close(alone["state"], ranks[0]["state"], 1e-10)


def test_sharded_weights_are_whole_again_however_training_ends(together):
    """By SIGTERM or Ctrl-C at one process, by weights that are not finite, by a loss that is not at one process.

    A run that was to be compiled says once that it is not.
    """
    ranks = found(together / "ends-fsdp")
    names = ["SystemExit", "KeyboardInterrupt", "NonFiniteError", "NonFiniteError"]
    assert [name for name, *_ in ranks[0]] == [name for name, *_ in ranks[1]] == names
    for (_, weights, *rest), (_, others, *also) in zip(*ranks, strict=True):
        assert rest == also == [True, 1] and torch.equal(weights, others) and weights.isfinite().all()


def test_pyro_programs_train_alike_sharded_and_not(together):
    """Whether Pyro's store knows the parameters beforehand or hears of them in a step."""
    ranks = found(together / "programs-both")
    for each in ranks:
        assert all(plain for *_, plain in each)
        weights = [w for _, w, _ in each]
        assert torch.allclose(weights[0], weights[1], rtol=0, atol=1e-10)
        assert torch.allclose(weights[2], weights[3], rtol=0, atol=1e-10)
        assert torch.equal(weights[0], ranks[0][0][1])


def test_what_went_wrong_is_told():
    """A process that is killed by its own C++ code leaves its reason in the middle of what it wrote."""
    code = "import os, sys; print('fine ' * 900, file=sys.stderr, flush=True); os.abort()"
    environment = {**ENVIRONMENT, "PYTHONFAULTHANDLER": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    result.stderr += "and so on " * 900
    assert "Fatal Python error: Aborted" in why(result) and 'File "<string>", line 1' in why(result)


def test_every_model_trains_alike_sharded_and_not(together):
    """Whatever its masks, transforms, priors and players read of its weights, and when (float64)."""
    ranks = found(together / "zoo-both")
    assert len(ranks[0]) > 15
    for name, (difference, change) in ranks[0].items():
        assert difference < 1e-10 < 1e-4 < change, name
