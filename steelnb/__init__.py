"""Finding defects on steel: open a data set, train a network, segment images, and know how good the masks are.

    data = steelnb.open_dataset("steel")
    steelnb.train(data, "run", steelnb.recipes.SMOKE)  # begins, or goes on
    network = steelnb.load_network("run")
    masks = steelnb.segment(network, data.image("0a1b2c3d4.jpg"))  # bool [K, H, W]

These names are loaded on first use, so `import steelnb` is fast. The docstring of each subpackage says what it is for.
"""

import lazy_loader

__version__ = "0.1.0"
EXIT_STOPPED = 3  # exit code of `steelnb train` when it stopped before its end and can be resumed

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["losses"],
    submod_attrs={
        "data": ["open_dataset"],
        "evaluation": ["evaluate"],
        "network": ["UNet", "load_network"],
        "prediction": ["segment"],
        "runs": ["train"],
        "training": ["recipes"],
    },
)
