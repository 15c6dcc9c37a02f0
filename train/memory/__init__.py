"""The episodic memory: who gets in, and what it holds."""
