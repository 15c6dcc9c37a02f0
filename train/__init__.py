"""Stage 2, run often: heads are trained on cached embeddings through a sequence of corpora."""
