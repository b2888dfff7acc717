"""Measurements, as ratios to a floor or a peer taken in the same run.  No test looks at them."""
