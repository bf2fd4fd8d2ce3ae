"""Triton kernels for GPUs, each with its launch. What they compute is defined in plain PyTorch where they are used."""
