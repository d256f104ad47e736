"""The Attention dashboard: a plugin that TensorBoard finds as soon as attnkit is installed.

Python serves what was logged (`plugin.py`); the pages are plain ES modules (`static/`). Only the
standard library, werkzeug, numpy and tensorboard are loaded: a plugin whose import fails takes the
whole of TensorBoard down, and one that loads torch holds up its start.
"""
