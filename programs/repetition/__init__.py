"""Of run_repetition_counting.py."""
