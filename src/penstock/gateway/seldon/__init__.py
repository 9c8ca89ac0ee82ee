"""What Seldon Core V1's clients ask a gateway, over HTTP and gRPC."""
