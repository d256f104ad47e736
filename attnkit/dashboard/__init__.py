"""The Attention dashboard, a TensorBoard plugin that is active once attnkit is installed.

Python serves the logged data (`plugin.py`); the pages are plain ES modules (`static/`). Only the
standard library, werkzeug, numpy and tensorboard are imported: an import error in a plugin breaks
all of TensorBoard, and torch would delay its start.
"""
