"""Masks without labels: detections become prompts, the decoder answers, and masks become label images.

``segment.py`` writes them for frames of your own, ``evaluate.py`` scores them, ``calibration.py`` says which to doubt.
"""
