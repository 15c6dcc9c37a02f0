"""How good transcripts are: word error rates, comparisons, doubtful texts, and texts with errors made on purpose."""
