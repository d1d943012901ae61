"""What training needs besides `simclr`: hardware settings, checkpoints, compiled steps, processes, the FSL network, shipping.

`simclr`, `active`, `label` and the commands `supclust train` and `supclust ship` come in here.
"""
