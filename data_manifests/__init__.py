"""One TOML per corpus; `ser_memory.common.manifests` documents the form and reads them."""
