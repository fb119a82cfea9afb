"""Recipes: all settings of a training, as data.  Taught in 00_start_here.

`ORIGINAL` reproduces the original of 2020: its geometry, one sample per label row, its split by row, no augmentation.
`SMOKE` is small enough for a CPU: a minute of training that learns something. `MODERN` is a reasonable start for real
data on a GPU. `FAST` reaches the original's quality many times sooner: benchmarks/time_to_quality.py.
"""

from dataclasses import asdict, dataclass, field, fields, replace

from steelnb.losses import LOSSES
from steelnb.network.pretrained import STARTS

CHOICES = {
    "loss": tuple(LOSSES),
    "optimizer": ("adamw", "sgd"),
    "schedule": ("constant", "one-cycle"),
    "samples": ("image", "row"),
    "geometry": ("exact", "original"),
    "start": STARTS,
}
RANGES = {
    "batch epochs epoch_samples scored": (int, 1, 10**9),
    "learning_rate weight_decay": (int | float, 0, float("inf")),
    "momentum on_defect validation ema encoder_rate brightness scoring": (int | float, 0, 1),
}
MODEL = {  # arguments of each kind of network; the data determine the numbers of channels
    "unet": ("width", "depth", "norm", "crop", "padding"),
    "lite": (),
}
SWITCHES = ("flips", "per_class", "nesterov", "channels_last", "compile")
LATER = (  # fields that runs of earlier versions do not have
    "ema", "nesterov", "channels_last", "compile", "start", "encoder_rate", "brightness", "scoring",
)


@dataclass(frozen=True)
class Recipe:
    """All settings of one training. Sizes in pixels. Raises ValueError for a value that is not allowed.

    model: arguments of `unet.UNet`, or {"kind": "lite"}, the `lite_unet.LiteUNet`.
    loss: a name in `losses.LOSSES`. optimizer: "sgd" or "adamw".
    schedule: "constant" or "one-cycle" (up to `learning_rate` over a tenth of the steps, then a cosine down to 0).
    samples: "image" (all its labels together, clean images included) or "row" (the original's: one sample per label
        row, with the image's other rows as background). Splits use the same unit.
    epoch_samples: number of samples drawn per epoch, independent of the size of the data set; None: each sample once.
    scored: largest number of held-out samples scored after each epoch, evenly spread; None: all.
    geometry, crop, on_defect, flips: as in `samples.Samples`.
    ema: decay per step of a moving average of the weights, which is scored and saved instead of them; it is smaller
        in the first steps (`trainer.decay`). 0: no average.
    nesterov: Nesterov momentum for SGD. channels_last: memory layout of feature maps; same results up to rounding.
    compile: torch.compile, if the device supports it (`runtime.compiles`).
    start: initial weights of a "lite" network: "noise" (random), "imagenet" (its encoder) or "steel" (`pretrained`).
    encoder_rate: learning rate of its encoder, relative to that of the other layers.
    brightness: windows are made brighter or darker by up to this share, and their contrast is changed as much.
    scoring: largest share of the training's arithmetic for scoring after each epoch (at least one image each); it is
        computed from pixel counts, so the same images are scored on every machine. 0: no limit.
    """

    name: str
    model: dict = field(default_factory=dict)
    loss: str = "dice_bce"
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "one-cycle"
    batch: int = 8
    epochs: int = 10
    epoch_samples: int | None = None
    samples: str = "image"
    validation: float = 0.2
    scored: int | None = None
    geometry: str = "exact"
    crop: tuple[int, int] | None = None
    on_defect: float = 0.0
    flips: bool = False
    per_class: bool = False
    ema: float = 0.0
    nesterov: bool = False
    channels_last: bool = False
    compile: bool = False
    start: str = "noise"
    encoder_rate: float = 1.0
    brightness: float = 0.0
    scoring: float = 0.0

    def __post_init__(self) -> None:
        for names, (kind, least, most) in RANGES.items():
            for name in names.split():
                value = getattr(self, name)
                if value is None and name in ("epoch_samples", "scored"):
                    continue
                if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
                    number = "a whole number" if kind is int else "a number"
                    raise ValueError(
                        f"recipe {self.name}: {name} is {value!r}; it can be {number} from {least} to {most}"
                    )
        pair = self.crop if isinstance(self.crop, list | tuple) else ()
        if self.crop is not None and [type(n) is int and n > 0 for n in pair] != [True, True]:
            raise ValueError(f"recipe {self.name}: crop is {self.crop!r}; it can be two numbers of pixels, or None")
        kind = self.model.get("kind", "unet") if isinstance(self.model, dict) else None
        if kind not in (*MODEL,) or not self.model.keys() - {"kind"} <= {*MODEL[kind]}:
            raise ValueError(
                f"recipe {self.name}: model is {self.model!r}; it can be the network's arguments as JSON, for example "
                f'{{"width": 8, "depth": 3}}, of {", ".join(MODEL["unet"])}, or {{"kind": "lite"}}'
            )
        if self.ema == 1:
            raise ValueError(f"recipe {self.name}: ema is 1, an average that never changes; try 0.99, or 0 for none")
        for name in SWITCHES:
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"recipe {self.name}: {name} is {value!r}; it can be True or False")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError(f"recipe {self.name}: nesterov needs optimizer sgd with a momentum")
        for name, choices in CHOICES.items():
            if (chosen := getattr(self, name)) not in choices:
                raise ValueError(f"recipe {self.name}: {name} is {chosen!r}; it can be {', '.join(choices)}")
        if kind != "lite" and (self.start != "noise" or self.encoder_rate != 1):
            raise ValueError(f"recipe {self.name}: start and encoder_rate are for a network of kind lite")
        if kind == "lite" and self.geometry == "original":
            raise ValueError(f"recipe {self.name}: the original's geometry is for a valid U-Net, not for kind lite")

    def changed(self, **changes) -> "Recipe":
        """The same recipe with `changes`. Raises ValueError for an unknown name or a value that is not allowed."""
        if unknown := set(changes) - {each.name for each in fields(self)}:
            raise ValueError(f"a recipe has no {', '.join(sorted(unknown))}; it has {', '.join(asdict(self))}")
        return replace(self, **changes)

    def to_dict(self) -> dict:
        """As plain JSON types. `LATER` fields with their default value are left out, so that older runs can resume."""
        plain = {each.name: each.default for each in fields(self)}
        return {name: value for name, value in asdict(self).items() if name not in LATER or value != plain[name]}


ORIGINAL = Recipe(
    "original",
    model=dict(width=64, depth=4, norm="encoder", crop="ceil"),
    loss="original_dice",
    optimizer="sgd",
    learning_rate=1e-3,
    momentum=0.99,
    schedule="constant",
    batch=2,
    epochs=304,  # of label rows; an estimate: 100 h at a P100's 4.8 images/s
    samples="row",
    geometry="original",
)

SMOKE = Recipe(
    "smoke",
    model=dict(width=8, depth=3),
    loss="dice_bce",
    learning_rate=4e-3,
    weight_decay=1e-4,
    batch=4,
    epochs=6,
    epoch_samples=280,
    scored=32,
    crop=(96, 96),  # within seconds, many small steps learn more than a few large ones
    on_defect=0.5,
    flips=True,
)

MODERN = Recipe(
    "modern",  # what a practitioner would start with today; nothing in it has been tuned on a GPU yet
    model=dict(width=32, depth=4),
    loss="dice_bce",
    learning_rate=1e-3,
    weight_decay=1e-4,
    batch=8,
    epochs=40,
    scored=400,  # scoring all 2,514 of Severstal, one whole image after another, took longer than an epoch of training
    crop=(256, 512),
    on_defect=0.5,
    flips=True,
)

FAST = Recipe(
    "fast",  # chosen on a CPU at width 8 on images of half Severstal's size and less; no GPU has run it yet
    model=dict(width=32, depth=3),
    loss="dice_bce",
    learning_rate=4e-3,
    weight_decay=1e-4,
    batch=4,
    epochs=12,
    scored=200,
    crop=(64, 64),  # many small steps left the original's plateau first
    on_defect=0.75,  # at 1, in a set without clean images, only the surroundings of defects would be seen
    flips=True,
    ema=0.98,
    channels_last=True,
    compile=True,
)

PRETRAINED = Recipe(
    "pretrained",
    model=dict(kind="lite"),
    start="steel",
    loss="dice_bce",
    learning_rate=3e-3,
    encoder_rate=1 / 6,
    weight_decay=1e-2,
    batch=8,
    epochs=10,
    epoch_samples=480,  # 60 steps per epoch, independent of the number of images
    scoring=0.15,
    crop=(192, 192),
    on_defect=0.5,
    flips=True,
    brightness=0.2,
    channels_last=True,
)

DEFAULT = "smoke"  # of `train`; to be `pretrained` if the study of that name supports it
RECIPES = {recipe.name: recipe for recipe in (PRETRAINED, SMOKE, FAST, MODERN, ORIGINAL)}
