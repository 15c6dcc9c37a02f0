"""ser-predict: a bundle and any recordings -> ratings over time, in several formats."""
