"""Of run_class_finetuning.py."""
