"""What this package takes from the others, which lie beside it: in a checkout at the root, installed in `sigma_video`.

A relative import would climb above the root of a checkout, an absolute one would not find what is installed. So this is
the one place that asks where it is.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING or "." not in (__package__ or ""):
    from datasets.catalogue import CATALOGUE as CATALOGUE
    from datasets.loading.batch import Batch as Batch
    from engine.checkpointing.read_weights import StartConfig as StartConfig
    from engine.checkpointing.read_weights import Weights as Weights
    from engine.checkpointing.read_weights import read_weights as read_weights
    from engine.distributed.collectives import gather_objects as gather_objects
    from engine.distributed.world import World as World
    from engine.distributed.world import on_main_process as on_main_process
    from engine.errors import CheckpointError as CheckpointError
    from engine.errors import ConfigError as ConfigError
    from engine.errors import NonFiniteError as NonFiniteError
    from engine.files import replace_text as replace_text
    from engine.weights import read_weights_once as read_weights_once
    from models.classifier import Classifier as Classifier
    from models.registry import ModelError as ModelError
    from models.registry import create_model as create_model
    from models.targets import IMAGENET_MEAN as IMAGENET_MEAN
    from models.targets import IMAGENET_STD as IMAGENET_STD
    from models.vit import VideoTransformer as VideoTransformer
    from models.weights.load import encoder_state as encoder_state
    from models.weights.load import head_pools as head_pools
    from models.weights.load import load_encoder as load_encoder
    from models.weights.load import native_state as native_state
    from models.weights.load import weights_hash as weights_hash
    from models.weights.rebuild import encoder_options as encoder_options
else:
    from ..datasets.catalogue import CATALOGUE as CATALOGUE
    from ..datasets.loading.batch import Batch as Batch
    from ..engine.checkpointing.read_weights import StartConfig as StartConfig
    from ..engine.checkpointing.read_weights import Weights as Weights
    from ..engine.checkpointing.read_weights import read_weights as read_weights
    from ..engine.distributed.collectives import gather_objects as gather_objects
    from ..engine.distributed.world import World as World
    from ..engine.distributed.world import on_main_process as on_main_process
    from ..engine.errors import CheckpointError as CheckpointError
    from ..engine.errors import ConfigError as ConfigError
    from ..engine.errors import NonFiniteError as NonFiniteError
    from ..engine.files import replace_text as replace_text
    from ..engine.weights import read_weights_once as read_weights_once
    from ..models.classifier import Classifier as Classifier
    from ..models.registry import ModelError as ModelError
    from ..models.registry import create_model as create_model
    from ..models.targets import IMAGENET_MEAN as IMAGENET_MEAN
    from ..models.targets import IMAGENET_STD as IMAGENET_STD
    from ..models.vit import VideoTransformer as VideoTransformer
    from ..models.weights.load import encoder_state as encoder_state
    from ..models.weights.load import head_pools as head_pools
    from ..models.weights.load import load_encoder as load_encoder
    from ..models.weights.load import native_state as native_state
    from ..models.weights.load import weights_hash as weights_hash
    from ..models.weights.rebuild import encoder_options as encoder_options
