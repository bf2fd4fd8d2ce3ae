"""Repetition counting: how often an action is repeated in a video, by cycle lengths that a network refines."""
