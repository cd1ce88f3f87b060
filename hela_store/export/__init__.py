"""What other tools read: one module a format."""
