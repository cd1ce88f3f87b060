"""Files, locks, progress, random numbers, optional extras and executors.

Nothing here knows a word of the domain: no store, no frame, no model. Every other package may import it.
"""
