"""Detectors: where the cells of a frame are, found in stored embeddings and without labels.

``head.py`` is the network, ``train.py`` and ``detect.py`` make its runs, ``evaluate.py`` scores its boxes.
``import_boxes.py`` reads the boxes of other detectors; ``yolo11/`` trains and runs YOLO11 in a process of its own.
"""
