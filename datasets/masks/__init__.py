"""Which tokens are masked: tube, random, and masks that follow optical flow or motion vectors."""
