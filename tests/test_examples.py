"""Examples as a new user would run them, and the README's code.

Those whose answers are known are run, within this process, where these are tested: ``test_compositions`` and
``test_compositions_guides``. The others are run here, small, each in a process of its own.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .test_compositions import TABLES
from .test_compositions_guides import EXAMPLES as GUIDES
from .test_import import ENVIRONMENT, ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SMALL = {
    "quickstart.py": ["--epochs", "1"],
    "hierarchical_regression.py": ["--steps", "20"],
    "image_flow.py": ["--epochs", "1", "--hidden", "4", "--batch", "64", "--conditional"],
    "autoregressive_images.py": ["--epochs", "1", "--hidden", "10"],
    "pretrained_encoder.py": ["--epochs", "2", "--draws", "2", "--steps", "3"],
    "inpaint_with_a_generator.py": [
        "--epochs",
        "1",
        "--chains",
        "4",
        "--temperatures",
        "5",
        "--steps",
        "3",
        "--few",
        "1",
    ],
}
SAYS = {
    "hierarchical_regression.py": "fit compiled",
    "image_flow.py": "bits/dim",
    "autoregressive_images.py": "bits/dim",
    "pretrained_encoder.py": "from scratch",
    "inpaint_with_a_generator.py": "NUTS",
}
DRAWING = ("quickstart.py", *SAYS)


def test_every_example_is_run():
    answered = {f"{name}.py" for name in (*TABLES, *GUIDES)}
    assert {path.name for path in EXAMPLES} == answered | set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_example_runs(name, tmp_path):
    command = [sys.executable, str(ROOT / "examples" / name), *SMALL[name]]
    if name in DRAWING:
        command += ["--out", str(tmp_path)]
    result = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    if name not in DRAWING:
        assert result.stdout.count("\n") > 2  # a table
        return
    if name != "quickstart.py":
        assert list(tmp_path.glob("*.png")) and SAYS[name] in result.stdout
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
    assert len(blocks) == 3
    code = "\n".join(blocks).replace("num_samples=200, warmup_steps=100", "num_samples=2, warmup_steps=1")
    code = code.replace("patience=5, seed=0", "seed=0, max_epochs=1")
    result = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_readme_names_only_files_that_exist():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)h][^)]*)\)", text):
        assert (ROOT / Path(target)).is_file(), target
