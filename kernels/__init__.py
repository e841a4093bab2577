"""The compiled layer."""
