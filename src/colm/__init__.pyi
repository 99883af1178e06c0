from .coreset.balanced_sampling import balanced_sampling
from .coreset.candidates import Candidates, Choice, Observed
from .coreset.coreset_selector import CoresetSelector
from .coreset.facility_location import facility_location
from .coreset.gradient_matching import gradient_matching
from .coreset.importance_sampling import importance_sampling
from .coreset.mean_matching import mean_matching
from .coreset.registry import available_selectors, register_selector
from .gradients.value_gradients import last_value_gradients
from .memory.low_rank_adam import LowRankAdam
from .memory.side_block import SideBlock, attach_side_block, side_block_of
from .memory.step_log import replay_log
from .memory.subspaces.optimizer import SubspaceOptimizer
from .memory.subspaces.subspaces import Subspaces
from .memory.zeroth_order_optimizer import ZerothOrderOptimizer
from .training.checkpoints.side_block_file import load_side_block, save_side_block
from .training.contrastive.clustered_batches import ClusteredBatches
from .training.options.config import CoLMConfig, CoLMTrainingArguments
from .training.trainer import CoLMSFTTrainer, CoLMTrainer

__version__: str

__all__ = [
    "Candidates",
    "Choice",
    "ClusteredBatches",
    "CoLMConfig",
    "CoLMSFTTrainer",
    "CoLMTrainer",
    "CoLMTrainingArguments",
    "CoresetSelector",
    "LowRankAdam",
    "Observed",
    "SideBlock",
    "SubspaceOptimizer",
    "Subspaces",
    "ZerothOrderOptimizer",
    "attach_side_block",
    "available_selectors",
    "balanced_sampling",
    "facility_location",
    "gradient_matching",
    "importance_sampling",
    "last_value_gradients",
    "load_side_block",
    "mean_matching",
    "register_selector",
    "replay_log",
    "save_side_block",
    "side_block_of",
]
