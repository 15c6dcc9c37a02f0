"""What a bundle reveals about the utterances it was trained on: attacks, how well they work, and a table of them."""
