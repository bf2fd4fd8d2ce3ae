"""Loading weights of other layouts, and writing them for other programs."""
