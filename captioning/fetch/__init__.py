"""From a URL that a stranger chose to the bytes behind it."""
