"""One TOML per corpus; `common.manifests` documents the form and reads them."""
