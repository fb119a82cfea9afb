"""Checks of a data set for what would spoil a training or its scores.

Copies (`duplicates`, `copy_groups`), labels that cannot be right (`checks`), splits that leak (`audit`), and the report
page (`page`).
"""

from steelnb.audit.audit import audit
from steelnb.audit.duplicates import find_duplicates

__all__ = ["audit", "find_duplicates"]
