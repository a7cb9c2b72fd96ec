"""Results of audits: bounds on wrong calls and corrected shares of taxa."""
