"""Automatic prompts: cells found in stored embeddings, without ground truth and without a second backbone."""
