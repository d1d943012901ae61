"""Papermill over the numbered notebooks: executed copies, HTML pages, a page of all figures, and what made them.

The command `supclust figures` and `make notebooks` come in by `reproduce`.
"""
