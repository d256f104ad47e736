"""The strategy in which each process holds a share of the weights, their gradients and the
optimizer's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from attnkit.models.sharding import load_whole, shared_like, whole_state
from attnkit.training.optimizers import JointOptimizer


class FullySharded(ModelParallelStrategy):
    """FSDP2 over all processes; `Task.configure_model` shards the model.

    Its checkpoints are those of one process: whole weights and states by number of the parameter,
    in one file that the first process writes and all read. Lightning's own reading bypasses
    `CheckpointIO`, and so its checks.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: `load_optimizer_state_dict` restores a state."""
        return True

    def setup_environment(self) -> None:
        """All processes, on all nodes, share one model."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights in the first process; nothing in the others."""
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict(keep_vars=True)
        return whole_state(state, keep=self.is_global_zero)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole states in the first process; nothing in the others."""
        return whole_state(optimizer.state_dict(), keep=self.is_global_zero)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """What the file holds, in every process."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Loads this process's share of the weights."""
        assert self.lightning_module is not None
        load_whole(self.lightning_module, checkpoint["state_dict"])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Loads this process's share of the states."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)
            for part in optimizer.parts if isinstance(optimizer, JointOptimizer) else [optimizer]:
                for parameter, values in part.state.items():
                    for name, value in values.items():
                        if isinstance(value, Tensor) and value.shape == parameter.shape:
                            values[name] = shared_like(value, parameter)
