"""The YOLO11 backend: images for it, and the one process that runs ultralytics (AGPL-3.0).

Nothing imports ``process.py``, and it imports nothing of this library.
"""
