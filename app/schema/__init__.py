"""Public shapes: types, inputs, results, the error map, limits, the root.  No I/O."""
