"""What trains encoders beyond one process: several processes under torchrun, and the files that ship with the package.

`simclr.train` and the commands `supclust train` and `supclust ship` come in here.
"""
