"""Code that the pages share: `static/` draws maps, curves and tables in the browser; `serving.py`
puts pages into TensorBoard, `offline.py` into one file.
"""
