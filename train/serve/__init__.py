"""ser-serve: a bundle behind HTTP, with a page for the browser."""
