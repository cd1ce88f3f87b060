"""Fine-tuning on stored embeddings.

``finetune.py`` is the job, ``config.py`` its settings, ``data.py`` the batches, ``step.py`` the loss of one step,
``trainer.py`` the resumable loop and its state, ``losses/`` the losses.
"""
