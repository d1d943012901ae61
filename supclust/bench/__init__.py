"""How fast selection and training are, against other libraries and the machine's own rates.

Notebook 09 comes in here, and nothing else does.
"""
