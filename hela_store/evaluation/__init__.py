"""Scoring runs: prompts are asked, the decoder answers, and every answer is scored against the labels.

``evaluate.py`` makes the runs, ``compare.py`` pairs two of them, ``other_labels.py`` scores one against other labels,
``leaks.py`` refuses frames that were trained on.
"""
