"""Video object segmentation: clusters of a clip's tokens, and labels passed on from frame to frame."""
