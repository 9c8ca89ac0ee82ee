"""Where manifests live: `base` is the contract, `sqlite` keeps it on one machine."""
