"""Fine-tuning on stored embeddings.

``finetune.py`` is the job, ``config.py`` its settings, ``data.py`` the batches, ``step.py`` the loss of one view,
``tuning.py`` the task that the trainer is given, ``losses/`` the losses. ``trainer.py`` is the resumable loop of every
training, ``schedule.py`` its learning rate.
"""
