"""Stage 1, run once: a release on disk becomes pooled embeddings in one HDF5 cache."""
