"""Of run_probing.py."""
