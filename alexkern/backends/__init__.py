"""The backends side by side: torch, cpu and cuda, one operator a file. Triton's is alexkern.kernels."""
