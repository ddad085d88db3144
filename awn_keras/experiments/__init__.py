"""Runnable, resumable recipes."""
