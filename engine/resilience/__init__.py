"""What a long run survives: preemption, NaN and Inf losses, stalls, bad videos."""
