"""What was said: the release's own transcripts, or a file of them."""
