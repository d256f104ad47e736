"""The entry point for TensorBoard, in the group `tensorboard_plugins`."""

from __future__ import annotations

from typing import Any

from tensorboard.plugins import base_plugin


class AblationsLoader(base_plugin.TBLoader):
    """Creates the plugin."""

    def load(self, context: base_plugin.TBContext) -> Any:
        """Returns the plugin; None if TensorBoard shows no folder of this machine."""
        from attnkit.ablation.page.folders import log_folders
        from attnkit.ablation.page.plugin import AblationsPlugin

        flags = context.flags
        roots = log_folders(getattr(flags, "logdir", None), getattr(flags, "logdir_spec", None))
        return AblationsPlugin(context, roots) if roots else None
