"""What the flows' benchmarks leave to a GPU, all of it side by side within so many minutes.

Every run is a process of its own, whose learning rate follows the clock, so that all of them end in time however they
share the card. What they print goes to a folder, what they measure to ``benchmarks/results``.

    python -m benchmarks.gpu [--minutes 11] [--only glow ...] [--out out/gpu]

The minutes are of training; reading the data and scoring take one more. Processes share a card best under CUDA's
multi-process service: ``nvidia-cuda-mps-control -d`` before.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

RUNS = {
    "glow": (1.0, ["mnist", "--model", "Glow"]),
    "realnvp": (1.0, ["mnist", "--model", "MultiscaleRealNVP"]),
    "nsf": (1.0, ["bsds300", "--model", "NSF", "--mirrored", "--batch", "1024"]),
    "maf-mirrored": (0.7, ["bsds300", "--model", "MAF", "--mirrored", "--batch", "1024"]),
    "maf": (0.4, ["bsds300", "--model", "MAF", "--batch", "512"]),
    "maf-digits": (0.3, ["mnist", "--model", "MAF", "--fresh"]),
}


def main() -> None:
    """Starts the runs, waits for them and shows how each ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=11.0)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--out", type=Path, default=Path("out/gpu"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "benchmarks.gpu: expected a GPU, torch.cuda finds none\n")
    arguments.out.mkdir(parents=True, exist_ok=True)
    running = {}
    for name in arguments.only:
        share, words = RUNS[name]
        settings = [*words[1:], "--device", "cuda", "--minutes", f"{share * arguments.minutes:g}"]
        command = [sys.executable, "-u", "-m", f"benchmarks.{words[0]}", *settings]
        with (arguments.out / f"{name}.log").open("w") as log:
            running[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    begun, failed = time.monotonic(), False
    while running:
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            failed |= process.returncode != 0
            lines = (arguments.out / f"{name}.log").read_text().splitlines()
            print(f"{name}: status {process.returncode} after {time.monotonic() - begun:.0f} s; {(lines or [''])[-1]}")
        time.sleep(1.0)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
