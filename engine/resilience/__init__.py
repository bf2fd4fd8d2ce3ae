"""Fault tolerance: preemption, NaN and Inf losses, stalls, undecodable videos."""
