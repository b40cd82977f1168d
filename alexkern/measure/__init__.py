"""Measuring that can be trusted: time and memory."""
