"""Of run_sigma_pretraining.py."""
