"""What the library claims, measured.

Every module here runs by ``python -m benchmarks.NAME`` and writes ``results/NAME.json`` and ``results/NAME.md``.
"""
