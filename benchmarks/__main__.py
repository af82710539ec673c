"""All benchmarks, one after the other: ``python -m benchmarks``; one of them: ``python -m benchmarks.NAME``."""

import subprocess
import sys

NAMES = ("training", "compilation", "uci", "flows", "sbi")

if __name__ == "__main__":
    for name in NAMES:
        print(f"--- {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
