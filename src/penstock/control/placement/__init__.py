"""Who gets what there is too little of: accelerators, and namespaces' quotas."""
