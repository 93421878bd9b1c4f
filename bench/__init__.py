"""The benchmarks of Vicinal; `python -m bench --help` lists them, docs/performance.md says how to read them."""
