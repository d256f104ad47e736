"""The entry point for TensorBoard, in the group `tensorboard_plugins`."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from tensorboard.plugins import base_plugin

from attnkit.tensorboard.map_header import PLUGIN_NAME

KEPT_STEPS = 200
"""Number of steps of a tag that TensorBoard keeps. For an unknown plugin it keeps ten random steps,
without step 0. `attnkit.callbacks.at_moments` logs no more than this.
"""


class AttentionLoader(base_plugin.TBLoader):
    """Creates the plugin, and makes TensorBoard keep every logged step."""

    def fix_flags(self, flags: Namespace) -> None:
        """Increases the number of kept steps, unless the user chose it (`--samples_per_plugin`)."""
        flags.samples_per_plugin.setdefault(PLUGIN_NAME, KEPT_STEPS)

    def load(self, context: base_plugin.TBContext) -> Any:
        """Returns the plugin; None if TensorBoard has no data provider."""
        if context.data_provider is None:
            return None
        from attnkit.dashboard.plugin import AttentionPlugin

        return AttentionPlugin(context)
