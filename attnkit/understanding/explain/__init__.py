"""What attention adds to a text, as a page, a figure and numbers."""
