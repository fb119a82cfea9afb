"""Folders and archives → images and masks: data sets, labels, run-length text, splits, synthetic steel."""
