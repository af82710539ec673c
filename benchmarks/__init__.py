"""What the library claims, measured: each module runs by ``python -m benchmarks.NAME`` and writes ``results/NAME.{json,md}``."""
