"""Seldon Core's manifests, of V1 and V2, as their users write them."""
