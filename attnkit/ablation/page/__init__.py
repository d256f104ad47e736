"""The Ablations page: a TensorBoard plugin that compares the variants of each study, even while it
runs. `../comparison_page.py` writes the same page as a file.
"""
