"""Pictures of what a model makes of videos."""
