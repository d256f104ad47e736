"""The attention of a trained run on any text: as pictures, numbers, and one page for a browser."""
