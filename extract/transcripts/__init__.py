"""Transcripts of utterances: the release's own, those in a file of the user, or those that an engine makes."""
