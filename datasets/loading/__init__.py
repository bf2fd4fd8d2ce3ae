"""From samples to batches: the order of the samples, worker processes, loaders."""
