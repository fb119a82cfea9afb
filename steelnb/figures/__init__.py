"""What a reader looks at: plots in one style, pictures that move, sliders, the progress of a run."""
