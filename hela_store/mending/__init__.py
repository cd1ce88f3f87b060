"""Masks of other tools, made better: each becomes a prompt, whose answer replaces it where that is surely a gain.

``answers.py`` asks, ``gate.py`` says how sure a gain is, ``decide.py`` chooses, ``mend.py`` joins them and writes.
"""
