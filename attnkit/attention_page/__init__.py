"""The attention of a trained run on any text: as figures, numbers, and one page for a browser."""
