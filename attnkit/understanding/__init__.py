"""What a trained model does: its heads, its residual stream, its words."""
