"""Masks of one image from prompts, in the form of ``segment_anything.SamPredictor``.

``load.py`` makes a predictor of a store, a run or a model's name; ``predictor.py`` answers; ``frame.py`` cuts images
into tiles and encodes them.
"""
