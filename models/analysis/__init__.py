"""FLOPs and figures of a model."""
