"""What in a data set would spoil a training or its scores: copies, contradicting labels, masks that cannot be right."""
