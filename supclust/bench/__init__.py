"""How good strategies are on everything there is, and how fast selection and training are, against other libraries.

Notebooks 09 and 10 come in here, and nothing else does.
"""
