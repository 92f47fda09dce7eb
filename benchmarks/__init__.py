"""Benchmarks of torchpool on real input; run them as modules from the repository's root."""
