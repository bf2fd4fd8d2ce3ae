"""What a fine-tuned model is to say of a video: objectives, metrics and tables, a class for each task."""
