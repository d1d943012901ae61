"""What training needs besides `simclr`: hardware settings, several processes, checkpoints, the FSL network, shipped files.

`simclr`, `active`, `label` and the commands `supclust train` and `supclust ship` come in here.
"""
