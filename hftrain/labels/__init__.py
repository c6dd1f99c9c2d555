"""Labels of any input: classes and their numbers, losses, scores, thresholds and what a report shows of them."""
