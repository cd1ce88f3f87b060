"""The store as users of Python hold it: own runs, own columns, arrays without joins, and a vector for every cell."""
