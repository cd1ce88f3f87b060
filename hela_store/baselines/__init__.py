"""Say what the tuned decoder has to beat, as runs in the catalog: one module each."""
