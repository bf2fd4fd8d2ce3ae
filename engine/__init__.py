"""Training and evaluation loops. Imports torch and itself only: models and loaders arrive as arguments."""
