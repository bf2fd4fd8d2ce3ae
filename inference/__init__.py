"""From a checkpoint to an answer: models out of files, and what they say of videos. Composes the packages below it."""
