"""The guided tour: one page per idea of attention, with models trained on the spot."""
