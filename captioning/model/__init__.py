"""From pixel values to captions."""
