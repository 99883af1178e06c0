"""The trainers: the only part of colm that imports ``transformers``, ``trl`` and ``peft``."""
