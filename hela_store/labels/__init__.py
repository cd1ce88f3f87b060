"""Versions of the labels: events that people or label files make, their log, and the labels at any version."""
