"""What nbval's word is worth: the outputs of 65 cells are compared, of them 23 computed anew; the others read a kept table back.

It skips pictures, and cells tagged nbval-ignore-output. In cells tagged nbval-close numbers may differ by two units of their last
place or 2 %: shares, correlations and accuracies that are measured on a machine's own clusters. tests/test_notebooks.py counts.
"""

import re

from nbval.plugin import IPyNbCell

NUMBER = re.compile(r"[-+−]?\d+(?:\.(\d+))?")
exact = IPyNbCell.sanitize


class Close(str):
    """A text that is equal to another one whose numbers are about the same; spaces do not count."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return not self != other

    def __ne__(self, other):
        ours, theirs = ([*NUMBER.finditer(text)] for text in (self, other))
        words = [re.sub(r"\s", "", NUMBER.sub("#", text)) for text in (self, other)]
        return words[0] != words[1] or not all(map(about_equal, ours, theirs))


def about_equal(one, other):
    first, second = (float(match.group().replace("−", "-")) for match in (one, other))
    return abs(first - second) <= max(2.001 * 10 ** -len(one.group(1) or ""), 0.02 * abs(first))


def sanitize(cell, text):
    text = exact(cell, text)
    return Close(text) if "nbval-close" in cell.cell.metadata.get("tags", ()) else text


IPyNbCell.sanitize = sanitize
