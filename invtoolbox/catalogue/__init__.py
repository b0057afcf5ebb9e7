"""Names and shelves: registered classes, presets and trained priors."""
