"""Batches for contrastive training of embedding models, in which examples are alike."""
