"""Experiments that come with the program: TOML files of ser-train's options."""
