"""Operations of the models and of training: one file each, with its plain torch reference, its
Triton kernels and the choice between them (:mod:`forcelaw.ops.switch`).

Kernels do what surrounds the matrix products of a message: gather, weigh, rotate, sum over
neighbours. Sums run over edges sorted by receiver, or through the ``transposed`` order by sender,
one program per atom: no atomics, so a step gives the same bits every time.
"""

from __future__ import annotations

from .attention import Pairs, attention_pairs, rotary_attention
from .batch_assembly import assemble
from .edge_attention import Tokens, edge_attention, token_rows
from .edge_exchange import (
    edge_columns,
    edge_input,
    edge_table,
    linear_add,
    pair_norm,
    swapped,
)
from .edge_features import Lengths, edge_envelope, edge_features, length_features, lengths_wanted
from .edge_readout import edge_readout
from .egnn_vectors import egnn_vectors
from .esen.so2_matrix import so2_matrix
from .esen.so2_message import Edges, so2_edges, so2_message, spread
from .esen.spherical_norm import by_degree, spherical_add, spherical_gate, spherical_norm
from .esen.wigner import edge_frames
from .feed_forward import linear_glu, linear_silu
from .gated_message import gated_message
from .gemnet.harmonics import harmonics
from .gemnet.radial_filter import filter_sum, filtered_linear, gathered_linear, read_edges
from .gemnet.residual import (
    blend,
    gathered,
    join,
    merge,
    residual,
    scaled_linear,
    scaled_silu,
    unit_rms,
)
from .gemnet.sums import Edges as AngularEdges
from .gemnet.sums import Geometry, Rows, angular_bases, triplet_quadruplet_sums
from .group_matrix import group_matrix
from .layer_norm import layer_norm, linear_norm_silu
from .linear import linear
from .loss import loss
from .optimizer import record, schedule_free
from .painn_message import painn_message
from .painn_update import painn_pair, painn_update
from .random_rotation import random_rotations
from .segment import edge_difference, edge_gate, edge_sum
from .silu import silu
from .switch import AVAILABLE, by_positions, use_triton, using
from .token_norm import Affine, attended, token_norm
