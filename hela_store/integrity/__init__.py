"""Say what can be wrong with a store or a run, how it is found, and how it is repaired."""
