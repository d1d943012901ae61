"""What training needs besides `simclr`: hardware settings, checkpoints, compiled steps, processes, the FSL network, shipping.

`simclr`, `active` and the commands `supclust train` and `supclust ship` come in here, and `label` to reckon with time.
"""
