"""Commands that stand for a whole way of working: make a store, look at it, check the machine, run the demo."""
