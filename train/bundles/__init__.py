"""Bundles: trained models in folders of their own."""
