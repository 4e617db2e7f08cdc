"""The mean-scale hyperprior: its network, its checkpoints, and the exact integers that it codes with."""
