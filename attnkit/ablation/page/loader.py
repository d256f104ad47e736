"""The entry point for TensorBoard, in the group `tensorboard_plugins`."""

from __future__ import annotations

from typing import Any

from tensorboard.plugins import base_plugin


class AblationsLoader(base_plugin.TBLoader):
    """Creates the plugin."""

    def load(self, context: base_plugin.TBContext) -> Any:
        """Returns the plugin; None if TensorBoard shows no folder of this machine."""
        from attnkit.ablation.page.plugin import AblationsPlugin
        from attnkit.pages.log_folders import folders_of

        roots = folders_of(context.flags)
        return AblationsPlugin(context, roots) if roots else None
