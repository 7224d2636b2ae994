"""Training: one loop over (module, loss, batches) with averaging, checkpoints and bit-exact resume.

The loop knows no model. :func:`train` is the entry; the other names are its parts.
"""

__all__ = [
    "Checkpoint",
    "Interrupted",
    "LineProgress",
    "Loss",
    "MovingAverage",
    "NonFiniteLossError",
    "NotebookProgress",
    "PartProgress",
    "Progress",
    "RichProgress",
    "ShuffledBatches",
    "SilentProgress",
    "TrainingConfig",
    "TrainingResult",
    "Validation",
    "as_progress",
    "default_progress",
    "load_latest",
    "save",
    "train",
]

from girsanov.training.batches import ShuffledBatches
from girsanov.training.checkpoints import Checkpoint, load_latest, save
from girsanov.training.config import TrainingConfig
from girsanov.training.ema import MovingAverage
from girsanov.training.loop import Loss, TrainingResult, train
from girsanov.training.meter import NonFiniteLossError
from girsanov.training.progress import (
    LineProgress,
    NotebookProgress,
    PartProgress,
    Progress,
    RichProgress,
    SilentProgress,
    as_progress,
    default_progress,
)
from girsanov.training.signals import Interrupted
from girsanov.training.validation import Validation
