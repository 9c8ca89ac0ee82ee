"""How many replicas services have: load, memory, and what follows from them."""
