"""Lists of videos: every published form, read, checked and indexed."""
