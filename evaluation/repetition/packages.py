"""What this package takes from the others, which lie beside `evaluation`: in a checkout at the root, installed in
`sigma_video`. A relative import would climb above the root of a checkout, an absolute one would
not find what is installed.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING or (__package__ or "").startswith("evaluation"):
    from datasets.decoding.image_folder import frame_names as frame_names
    from datasets.decoding.open import open_video as open_video
    from datasets.errors import AnnotationError as AnnotationError
    from datasets.errors import DecodeError as DecodeError
    from datasets.lists.video_list import VideoList as VideoList
    from datasets.loading.workers import reading as reading
    from datasets.samples import read_or_replace as read_or_replace
    from datasets.samples import sample_rng as sample_rng
    from datasets.transforms.normalization import normalize_clips as normalize_clips
    from engine.distributed.collectives import all_reduce_sum as all_reduce_sum
    from engine.distributed.collectives import gather_objects as gather_objects
    from engine.distributed.world import World as World
    from engine.errors import NonFiniteError as NonFiniteError
    from engine.resilience.preemption import raise_if_preempted as raise_if_preempted
    from engine.resilience.watchdog import heartbeat as heartbeat
    from engine.tasks.task import Selection as Selection
else:
    from ...datasets.decoding.image_folder import frame_names as frame_names
    from ...datasets.decoding.open import open_video as open_video
    from ...datasets.errors import AnnotationError as AnnotationError
    from ...datasets.errors import DecodeError as DecodeError
    from ...datasets.lists.video_list import VideoList as VideoList
    from ...datasets.loading.workers import reading as reading
    from ...datasets.samples import read_or_replace as read_or_replace
    from ...datasets.samples import sample_rng as sample_rng
    from ...datasets.transforms.normalization import normalize_clips as normalize_clips
    from ...engine.distributed.collectives import all_reduce_sum as all_reduce_sum
    from ...engine.distributed.collectives import gather_objects as gather_objects
    from ...engine.distributed.world import World as World
    from ...engine.errors import NonFiniteError as NonFiniteError
    from ...engine.resilience.preemption import raise_if_preempted as raise_if_preempted
    from ...engine.resilience.watchdog import heartbeat as heartbeat
    from ...engine.tasks.task import Selection as Selection
