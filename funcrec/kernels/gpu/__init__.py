"""The Triton kernels, one file an op, imported when one first runs: the only place where Triton is imported."""
