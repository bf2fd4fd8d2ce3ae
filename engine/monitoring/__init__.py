"""Metrics, console and TensorBoard logging, profiling, collapse detection."""
