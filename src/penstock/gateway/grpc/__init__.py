"""gRPC in a gateway: its own calls, and those that go on to model processes."""
