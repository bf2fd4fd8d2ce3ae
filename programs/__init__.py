"""What the entry scripts are made of: their options, networks and results, composed of models, datasets and engine."""
