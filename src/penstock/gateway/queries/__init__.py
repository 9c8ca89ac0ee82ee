"""`POST /v2/query`: many models asked with one request."""
