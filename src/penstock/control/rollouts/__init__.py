"""New revisions get their requests in steps, and go back on evidence that they are worse."""
