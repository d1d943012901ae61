"""Papermill over the numbered notebooks: executed copies, HTML pages, an index, and what made them.

The commands `supclust figures` and `make notebooks` come in by `reproduce`.
"""
