"""Tools for lists of videos: prepare, check, re-encode, shard, browse."""
