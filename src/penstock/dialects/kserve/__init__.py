"""KServe's and KFServing's manifests, as their users write them."""
