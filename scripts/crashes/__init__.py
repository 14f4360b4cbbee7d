"""Processes that are killed while they write, and the look at what they left."""
