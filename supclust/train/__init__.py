"""What training needs besides `simclr`: hardware settings, plans, checkpoints, the FSL network, shipped files."""
