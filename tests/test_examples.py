"""Every example runs, small, as a new user would run it; and the README's code does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .test_import import ENVIRONMENT, ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SMALL = {
    "quickstart.py": ["--epochs", "1"],
    "hierarchical_regression.py": ["--steps", "20"],
    "flow_as_prior.py": ["--samples", "10"],
    "flow_as_noise.py": ["--steps", "10"],
    "mixture_of_flows.py": ["--steps", "10"],
    "generative_classifier.py": ["--epochs", "1"],
    "plates_and_particles.py": ["--particles", "10"],
    "bayesian_flow.py": ["--samples", "10"],
    "simulation_based_inference.py": ["--epochs", "1"],
    "effect_handlers.py": [],
    "amortized_flow.py": ["--epochs", "1"],
    "conditional_flow_guide.py": ["--steps", "20"],
    "neutra.py": ["--steps", "20", "--samples", "10"],
    "auto_flow.py": ["--steps", "20"],
    "image_flow.py": ["--epochs", "1", "--hidden", "4", "--conditional"],
}
SAYS = {"hierarchical_regression.py": "fit compiled", "image_flow.py": "bits/dim"}
DRAWING = ("quickstart.py", *SAYS)


def test_every_example_has_small_settings():
    assert {path.name for path in EXAMPLES} == set(SMALL)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_example_runs(path, tmp_path):
    command = [sys.executable, str(path), *SMALL[path.name]]
    if path.name in DRAWING:
        command += ["--out", str(tmp_path)]
    result = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    if path.name not in DRAWING:
        assert result.stdout.count("\n") > 2  # a table; whether its figures are right: test_compositions.py
        return
    if path.name != "quickstart.py":
        assert list(tmp_path.glob("*.png")) and SAYS[path.name] in result.stdout
        return
    rows = [line for line in result.stdout.splitlines() if line.startswith(("flow", "VAE", "GAN"))]
    assert [row.split()[0] for row in rows] == ["flow", "VAE", "GAN"]
    assert "exact" in rows[0] and "lower_bound" in rows[1] and "implicit" in rows[2]
    assert re.search(r"-?\d+\.\d ± \d", rows[0]) and re.search(r"-?\d+\.\d ± \d", rows[1])
    pictures = {p.stem for p in tmp_path.glob("*.png")}
    assert pictures >= {f"{m}_{k}" for m in ("flow", "VAE", "GAN") for k in ("samples", "learning_curves")}
    assert pictures >= {"VAE_reconstructions", "VAE_latent_space"}


def test_readme_code_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    code = "\n".join(blocks).replace("num_samples=200, warmup_steps=100", "num_samples=2, warmup_steps=1")
    code = code.replace("patience=5, seed=0", "seed=0, max_epochs=1")
    result = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_readme_names_only_files_that_exist():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)h][^)]*)\)", text):
        assert (ROOT / Path(target)).is_file(), target
