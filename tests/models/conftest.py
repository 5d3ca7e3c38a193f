"""Small tensors: one thread is faster, and two would fight with the other worker processes of
pytest-xdist."""

import torch

torch.set_num_threads(1)
