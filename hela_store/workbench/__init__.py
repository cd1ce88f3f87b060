"""The store as users of Python open it: the plain store, and what joins several stages."""
