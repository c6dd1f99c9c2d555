"""Labels of any input: classes and their numbers, losses, scores, thresholds and their report."""
