"""From encoded bytes to upright RGB."""
