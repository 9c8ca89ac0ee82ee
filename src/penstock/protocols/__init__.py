"""Wire formats: pure functions between bytes and arrays. What calls them is the model process."""
