"""`--memory_plan`: what a training step will hold, before it is run."""
