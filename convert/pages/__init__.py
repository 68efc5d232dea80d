"""Pages of HTML that need nothing else, and their plots."""
