"""What makes models: training and export."""
