"""What report.py and runs.py share: run folders read, and shown as a page or in a terminal."""
