# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The data: what is in it, and what would fool me
#
# **What is in the data, and what would fool me?** Wide gray images, half of them clean, with loose polygons drawn
# around four kinds of defect, written as run lengths that count *down the columns*. Four things fool: "predict nothing"
# is right on 97 % of the pixels; clean steel can look worse than a defect; an outline drawn four pixels
# further out costs a small defect a fifth of its Dice; and one sample for each row of the
# table, as the original had it, cuts part of the mask away, leaves out every clean image, and leaks once it is shuffled.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/01_data_exploration.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/01_data_exploration.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | to read Severstal's labels, and to spot the mistake that turns masks into stripes | a CPU, under a minute |
# | how often, how large and how loosely each class is labelled | no download: synthetic steel by default |
# | what the split of the original (2020) did to images with two classes | your own data, if you have any: set `STEELNB_DATA` |
#
# The original is [dosp0911/Steel_image_Segmentation](https://github.com/dosp0911/Steel_image_Segmentation), the data
# set [Severstal: Steel Defect Detection](https://www.kaggle.com/c/severstal-steel-defect-detection) (Kaggle, 2019).

# %%
# Setup: pip installs steelnb where it is missing, as on Colab; torch and NumPy stay as they are.
import importlib.util, os, subprocess, sys  # isort: skip
if not getattr(importlib.util.find_spec("steelnb"), "origin", None):  # a folder of that name is no package
    source = os.environ.get("STEELNB_SPEC") or sys.exit("no address yet: set STEELNB_SPEC, or make address")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], capture_output=True, text=True)
    assert done.returncode == 0, f"pip could not install {source}:\n{done.stderr}"

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from steelnb.data import rle, sources, splits, synthetic
from steelnb.evaluation import metrics
from steelnb.figures import labels, plots

plots.use_style()
data = sources.open_dataset(images=200, progress=False)
print(data.describe())
assert len(data.rows), "no image of this set shows a defect, so there is no label to look at"

# %% [markdown]
# `sources.open_dataset` takes the first that is there: the folder that `STEELNB_DATA` names, Severstal in Kaggle's input folder,
# else **synthetic steel**, drawn on the spot. The first line above says which one you are looking at.
#
# ## 1 · Two kinds of numbers
#
# Everything *measured* below is measured on the data set above. Synthetic steel comes from a program that was fitted to
# Severstal's labels: it teaches to look, and is no evidence about steel. Beside it stand **facts of the real set**,
# marked *Severstal*, from the competition's published labels. The library keeps their counts:

# %% tags=["nbval-check-output"]
REAL = synthetic.COMBINATIONS  # Severstal: how many of its train images show which classes
real_images = sum(REAL.values())
real_rows = sum(n * len(shown) for shown, n in REAL.items())
real_several = sum(n for shown, n in REAL.items() if len(shown) > 1)
real_class = {k: sum(n for shown, n in REAL.items() if k in shown) for k in (1, 2, 3, 4)}
print(f"Severstal: {real_images} train images, {REAL[()]} clean, {real_several} with more than one class")
print(f"           {real_rows} label rows, images a class: {real_class}")
assert (real_images, REAL[()], real_several, real_rows) == (12568, 5902, 427, 7095)

# %% [markdown]
# ## 2 · One table, two forms
#
# The labels came in two forms. In 2019 every image had four rows, most of them empty. Today's file lists defects only,
# so **a clean image is one without a row**: whoever loops over the table never meets the clean half of the data. Two
# images of 4×6 pixels, `b.jpg` clean, in both forms, of which the library reads either:
#
# ```
# today                              2019
# ImageId,ClassId,EncodedPixels      ImageId_ClassId,EncodedPixels
# a.jpg,1,2 3 9 2                    a.jpg_1,2 3 9 2
# a.jpg,3,22 3                       a.jpg_2,
#                                    a.jpg_3,22 3
#                                    … and a.jpg_4, b.jpg_1 to b.jpg_4, all empty
# ```
#
# ## 3 · Run-length text, by hand
#
# `2 3 9 2` means: from pixel 2 on, 3 pixels; from pixel 9 on, 2 pixels. Pixels are counted **from 1** and **down the
# columns**. That is the whole format, so write the decoder once:


# %% tags=["nbval-check-output"]
def decode(text, height, width):
    flat = np.zeros(height * width, bool)
    numbers = [int(n) for n in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = True  # counted from 1
    return flat.reshape(width, height).T  # column after column


mask = decode("2 3 9 2", 4, 6)
print("\n".join(" ".join(".#"[pixel] for pixel in row) for row in mask.astype(int)))
assert np.array_equal(mask, rle.decode("2 3 9 2", (4, 6)))
assert rle.encode(mask) == "2 3 9 2"

# %% [markdown]
# The library's `rle.decode` does the same, faster, and refuses text that cannot be a mask, because a wrong label is
# worse than none. A start of 0 is how an encoder that counts from 0 gives itself away:

# %% tags=["nbval-check-output"]
for text in ("0 3", "2 3 4", "2 3 4 2", "23 3"):
    try:
        rle.decode(text, (4, 6), row=f"{text!r}")
    except rle.RLEError as error:
        print(error)
    else:
        raise AssertionError(f"{text} should have been refused")

# %% [markdown]
# Now on the data: every mask must survive the way into text and back.

# %%
def spread(items, most=240):
    """At most `most` items, taken evenly: a large data set is sampled, a small one is read whole."""
    items = list(items)
    return items[:: max(1, -(-len(items) // most))]


size = data.images.set_index("ImageId")[["height", "width"]]
rows = data.rows.assign(share=data.rows["area"] / size.prod(axis=1)[data.rows["ImageId"]].to_numpy())
for row in spread(rows.itertuples()):
    mask = rle.decode(row.EncodedPixels, tuple(size.loc[row.ImageId]))
    assert mask.sum() == row.area
    assert np.array_equal(rle.decode(rle.encode(mask), mask.shape), mask)
print(f"{len(spread(rows.index))} masks survive the way into text and back")

# %% [markdown]
# And if one forgets the columns, that is, writes `reshape(height, width)` without the transpose? **Predict** what a
# decoder that counts along the rows makes of a blob.

# %%
row = rows.iloc[(rows["share"] - 0.06).abs().argmin()]
right = rle.decode(row.EncodedPixels, tuple(size.loc[row.ImageId]))
wrong = right.T.reshape(right.shape)  # the same pixels, counted along the rows
assert wrong.sum() == right.sum()
assert right.all() or right.shape[0] == right.shape[1] or not np.array_equal(wrong, right)
overlap = (right & wrong).sum() / right.sum()

figure = plots.stack({
    f"Counted down the columns: a label of class {row.ClassId}": 255 * right.astype(np.uint8),
    f"Counted along the rows: {overlap:.0%} of the pixels in the right place": 255 * wrong.astype(np.uint8),
}, width=min(labels.WIDTH, 2.5 * right.shape[1] / right.shape[0]))
plt.show()

# %% [markdown]
# *Figure 1: One label, decoded rightly and in the wrong order. There is no error, and the number of pixels is right.
# Combs and stripes across the whole image are the mark of a mask read row by row. No check of areas finds it; one look
# does.*
#
# ## 4 · Which classes, how often, which together

# %%
together = pd.DataFrame(
    [[sum(a in shown and b in shown for shown in data.images["classes"]) for b in data.classes] for a in data.classes],
    index=pd.Index(data.classes, name="class"), columns=data.classes,
)
clean = data.images["masks"] == 0
several = int((data.images["masks"] > 1).sum())
like_severstal = data.classes == (1, 2, 3, 4)

table = pd.DataFrame({"images here": [clean.sum(), *np.diag(together)]}, index=["clean", *data.classes])
table["% here"] = (100 * table["images here"] / len(data)).round(1)
if like_severstal:
    table["Severstal"] = [REAL[()], *real_class.values()]
    table["% Severstal"] = (100 * table["Severstal"] / real_images).round(1)
assert table["images here"].sum() == clean.sum() + len(data.rows)  # an image counts once for each of its classes
print(table.to_string(), f"\n\n{several} images have more than one class (Severstal: {real_several}, "
      f"{real_several / real_images:.1%})")

beside = table["% Severstal"].rename("Severstal") if like_severstal else None
figure = labels.draw_classes(table["% here"], together, several, beside)
plt.show()

# %% [markdown]
# *Figure 2: Above: images that show each class; black marks: the real Severstal set, where it applies. Below: on the
# diagonal images with the class, beside it images with both.*
#
# On Severstal one image in fifty shows class 2 and 41 % show class 3, which owns four fifths of all defect pixels (2.55
# of 3.18 %): an average over all pixels is a score of class 3. So score each class by itself, and draw small sets *by
# class*, as `splits.by_image` does, not by chance.
#
# ## 5 · How large, in how many pieces, at the edge?

# %%
REAL_AREA = {1: (0.19, 0.93, 3.1), 2: (0.24, 0.72, 1.8), 3: (0.47, 2.89, 22), 4: (1.2, 6.35, 22)}  # %: 5, 50, 95 %
percent = {k: 100 * rows.loc[rows["ClassId"] == k, "share"].to_numpy() for k in data.classes}
figure = labels.draw_areas(percent, REAL_AREA if like_severstal else None, "Severstal")
plt.show()

# %% [markdown]
# *Figure 3: Area of every mask on a logarithmic axis; coloured bars: medians here. Black, where it applies: the real
# Severstal set. A loss that sums over pixels listens to the right-hand end only.*
#
# Masks come in pieces, and many touch the top or the bottom of the image. That matters to a network without padding
# ([02](02_overlap_tile.ipynb)) and to one that rejects small pieces. In brackets, and as *real area*: Severstal.

# %%
def pieces(mask):
    """Connected components of a mask, and how many of them touch the top or bottom edge."""
    labelled, n = ndimage.label(mask, np.ones((3, 3)))
    return n, len({*labelled[0], *labelled[-1]} - {0})


found = []
for k, group in rows.groupby("ClassId"):
    masks = [rle.decode(r.EncodedPixels, tuple(size.loc[r.ImageId])) for r in spread(group.itertuples(), 60)]
    n, touching = np.array([pieces(mask) for mask in masks]).T
    assert (n >= 1).all()
    assert (touching <= n).all()
    found.append((k, len(group), 100 * group["share"].median(), np.median(n), n.max(), 100 * touching.sum() / n.sum()))
columns = ["class", "masks", "area %", "pieces", "most", "% at edge"]  # area, pieces: medians; most: pieces of one mask
habits = pd.DataFrame(found, columns=columns).set_index("class").round(2)
if like_severstal:
    habits["real area"] = [REAL_AREA[k][1] for k in habits.index]
    habits["pieces"] = [f"{n:g} ({ {1: 2, 2: 1, 3: 2, 4: 2}[k]})" for k, n in habits["pieces"].items()]
    habits["% at edge"] = [f"{n:.0f}" + {2: " (two thirds)", 3: " (over half)"}.get(k, "") for k, n in habits["% at edge"].items()]
print(habits.to_string())

# %% [markdown]
# ## 6 · What they look like
#
# One label a class, of middling size (of a single class: four, from small to large), cut out of its image.


# %%
def mask_of(row):
    return rle.decode(row.EncodedPixels, tuple(size.loc[row.ImageId]))


def at_quantile(group, q):
    return group.sort_values("share").iloc[int(q * (len(group) - 1))]


groups = [group for _, group in rows.groupby("ClassId")][:6]
quantiles = [0.5] if len(groups) > 1 else [0.1, 0.4, 0.7, 0.95]
chosen = [at_quantile(group, q) for group in groups for q in quantiles]
cases = []
for row in chosen:
    mask = mask_of(row)
    place = labels.around(mask, 256, 384)
    title = f"class {row.ClassId}: {row.share:.1%}"
    cases.append((title, data.image(row.ImageId)[place], mask[place], labels.colour(row.ClassId, data.classes)))
figure = labels.draw_labels(cases)
plt.show()

# %% [markdown]
# *Figure 4: One defect a class with the outline of its label and its share of the image, gray values stretched and
# grain smoothed a little. On Severstal: 1 clusters of small pits; 2 thin dark lines down the strip, near its edge; 3
# scratches and wide irregular patches; 4 large rough rolled-in areas. Synthetic steel imitates these looks, no more.*
#
# ## 7 · The black band
#
# Where the strip ends, the camera sees nothing. On Severstal 38 % of the images have such a band at the left or right,
# half the image wide in the median. Lit steel is far brighter, so one threshold on the column's mean finds it:

# %%
def lit(image, level=20):
    """The columns that show steel, bool [W]."""
    return image.mean(0) > level


def summary(image_id):
    image, mask = data.image(image_id), data.mask(image_id)
    columns, side = lit(image), image.shape[0]
    empty = np.convolve(columns, np.ones(side, int), "valid") == 0 if side <= len(columns) else np.array([False])
    return {"ImageId": image_id, "band": 1 - columns.mean(), "all": image.mean(), "in band": mask[:, ~columns].sum(),
            "steel": image[:, columns].mean() if columns.any() else np.nan, "defect": mask.sum(), "crops": empty.mean()}


# %%
look = pd.DataFrame([summary(i) for i in spread(data.images["ImageId"])])
banded = look[look["band"] > 0.03]
print(f"{len(banded)} of {len(look)} images have a black band ({len(banded) / len(look):.0%}; Severstal: 38%)")
if len(banded):
    print(f"median width of a band: {banded['band'].median():.0%} of the image (Severstal: half)")
    print(f"mean gray of the banded images {banded['all'].mean():.0f}, of their steel {banded['steel'].mean():.0f}")
    print(f"{look['crops'].mean():.0%} of all square crops, as tall as the image, show no steel at all")
    print(f"{look['in band'].sum() / look['defect'].sum():.2%} of the defect pixels lie in a band")
assert (look["steel"] >= look["all"] - 1e-6)[look["steel"].notna()].all()

# %%
usable = banded if len(banded) else look
image_id = usable.iloc[(usable["band"] - 0.5).abs().argmin()].ImageId
image = data.image(image_id)
figure = labels.draw_band(image, ~lit(image), 20)
plt.show()

# %% [markdown]
# *Figure 5: An image with a band of about half (or, where none has one, the nearest), and the mean gray value of its
# columns. Dashes: the threshold. Blue: found as band.*
#
# What would it do to a network? Three things, all to be known before training:
#
# - **Normalising per image** divides by the band: the same steel gets another brightness beside a wide band. Measure
#   mean and spread on lit columns, or scale all images alike (the original: pixels / 255).
# - **Random crops** land in it: those show the network nothing but zeros, and feed its batch norms with them.
# - **Free points**: no defect is there, so each band pixel is a right answer that nobody had to learn. And its border,
#   the strongest edge in the image, lies just where classes 1 and 2 like to be.
#
# On other steel, look before you trust the threshold: if defect pixels lie in the "band", it found dark steel instead.
#
# ## 8 · What only looks like a defect
#
# Is a defect what stands out? Cut images into windows of 64 × 64 pixels of lit steel, and take as **contrast** the
# spread of the gray values, slow changes of the light removed, over their mean. Then compare windows that are mostly
# defect with those of clean images (of unlabelled places, where a set has no clean image).
#
# **Predict:** how often does a defect window show more contrast than a clean one?


# %%
def windows(image, mask, side=64):
    """Corner, contrast and share of defect of each window; NaN where it sees the band or comes close."""
    steel, side = image.astype(np.float32), max(1, min(side, min(image.shape) // 4))
    detail = steel - ndimage.uniform_filter(steel, 25)
    h, w = (n // side for n in image.shape)

    def blocks(array):
        return array[: h * side, : w * side].reshape(h, side, w, side)

    contrast = blocks(detail).std((1, 3)) / (blocks(steel).mean((1, 3)) + 1)
    near = ndimage.minimum_filter1d(lit(image).astype(int), 25)[: w * side].reshape(w, side).min(1)
    contrast[:, near == 0] = np.nan
    y, x = np.indices((h, w)) * side
    return np.stack([y, x, contrast, blocks(mask).mean((1, 3))], -1).reshape(-1, 4)


# %%
parts = []
for image_id in spread(data.images["ImageId"], 120):
    part = pd.DataFrame(windows(data.image(image_id), data.mask(image_id)), columns=["y", "x", "contrast", "share"])
    parts.append(part.assign(ImageId=image_id).dropna())
seen = pd.concat(parts, ignore_index=True)
clean_seen = seen["ImageId"].isin(data.images.loc[clean, "ImageId"])
sound = seen[clean_seen] if clean_seen.any() else seen[seen["share"] == 0]
sound = sound if len(sound) else seen.nsmallest(len(seen) // 2 + 1, "share")  # defects everywhere
defect = seen[seen["share"] >= min(0.5, seen["share"].max())]

order = np.sort(sound["contrast"])
wins = (np.searchsorted(order, defect["contrast"]) / len(order)).mean()
threshold = defect["contrast"].median()
alarms = int((sound["contrast"] >= threshold).sum())
print(f"{len(defect)} windows of defects, {len(sound)} of clean steel")
print(f"a defect window shows more contrast than a clean one in {wins:.0%} of all pairs (chance: 50%)")
print(f"a threshold that finds half of the defect windows also stops {alarms} clean ones ({alarms / len(sound):.1%})")
assert 0 <= wins <= 1
assert (defect["contrast"] >= threshold).mean() >= 0.5

# %%
def four(group, start, end):
    """Four windows of different images, evenly between two ranks (0: most contrast, 1: least)."""
    ranked = group.sort_values("contrast", ascending=False).drop_duplicates("ImageId")
    return ranked.iloc[(np.linspace(start, end, 4) * (len(ranked) - 1)).astype(int)]


lookalikes = sound.nlargest(max(alarms, 40), "contrast")
figure, axes = plt.subplots(2, 4, figsize=(labels.WIDTH, 3.4))
for line, group, name in zip(axes, (four(lookalikes, 0, 1), four(defect, 0.2, 0.9)), ("clean", "defect"), strict=True):
    for ax, w in zip(line, group.itertuples(), strict=True):
        y, x = (int(np.clip(c - 16, 0, max(0, n - 96))) for c, n in zip((w.y, w.x), size.loc[w.ImageId], strict=True))
        crop = data.image(w.ImageId)[y : y + 96, x : x + 96]
        labels.show_window(ax, crop, f"{name} {w.contrast:.2f}")
figure.suptitle(f"Above {threshold:.2f}: half of {len(defect)} defect windows,\nand {alarms} of {len(sound)} clean ones",
                x=0.01, ha="left", fontsize=10, fontweight="bold")
plt.show()

# %% [markdown]
# *Figure 6: Above: windows of clean steel (of unlabelled places, in a set without clean images), from the one with most
# contrast down to the median defect's. Below: windows of labelled defects, from strong to faint. The number is the
# contrast; gray values are stretched; 96 × 96 pixels each.*
#
# On synthetic steel we know what is above, for it was painted on purpose: water, sparkle, ripples, reflections,
# streaks, and traces of defects too faint for a label. On real steel you must look. On 45 real images of Severstal this
# cell finds 84 % of the pairs, and its threshold stops 13 % of the clean windows: white patches, and strokes as of
# chalk. So contrast is a hint, no more, and a network that has **never seen a clean image** (the original's samples
# were rows, and clean images have none) has never been told about these.
#
# ## 9 · Loose labels
#
# Labels are polygons drawn by hand around what somebody saw. How sharp can such an edge be? Suppose that two people
# agree on every defect, but one draws the outline *r* pixels further out. The Dice between them, 2|A∩B| / (|A| + |B|),
# is what a network scores that learnt the one perfectly and is judged by the other.

# %%
RADII = np.arange(9)


def agreement(mask):
    """Dice between a mask and itself grown by each of RADII pixels."""
    y, x = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = mask[max(0, y[0] - 9) : y[-1] + 10, max(0, x[0] - 9) : x[-1] + 10]
    away = ndimage.distance_transform_edt(~box)  # 0 on the mask
    grown = np.array([(away <= r).sum() for r in RADII])
    return 2 * mask.sum() / (mask.sum() + grown)


REAL_AT_4 = {1: 0.80, 2: 0.76, 3: 0.87, 4: 0.93}  # Severstal: medians over up to 200 published masks a class
curves = {k: np.median([agreement(mask_of(r)) for r in spread(group.itertuples(), 12)], axis=0)
          for k, group in rows.groupby("ClassId")}
for k, curve in curves.items():
    assert curve[0] == 1
    assert (np.diff(curve) <= 0).all()
    real = f" (Severstal: {REAL_AT_4[k]:.2f})" if like_severstal else ""
    print(f"class {k}: Dice of outlines 2 px apart {curve[2]:.2f}, 4 px {curve[4]:.2f}{real}, 8 px {curve[8]:.2f}")

# %%
cases = []
for group, q, side in ((groups[0], 0.6, 96), (groups[-1], 0.4, 192)):
    row = at_quantile(group, q)
    mask = mask_of(row)
    place = labels.around(mask, side, side)
    signed = ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask) + mask - 0.5
    own = labels.colour(row.ClassId, data.classes)
    cases.append((f"Class {row.ClassId}, label ± 4 px", data.image(row.ImageId)[place], signed[place], own))
figure = labels.draw_outlines(cases, curves)
plt.show()

# %% [markdown]
# *Figure 7: Above: a label of the first and one of the last class (lines), and the same drawn 4 pixels tighter and
# looser (dots): which one is right? The windows are 96 and 192 pixels wide. Below: median Dice between a label and the
# label grown.*
#
# If two labellers differ by four pixels, their Dice on Severstal is 0.76 to 0.80 on classes 1 and 2; so do not read small
# differences there as progress. And its labels fill 90 to 95 % of their convex hulls (*solidity*), so some labelled pixels
# are probably sound steel.
#
# ## 10 · The share that is right by saying nothing
#
# Most pixels are background, and about half of the images are clean. A mask without any defect is right on all of them:

# %%
right_share = 1 - data.rows["area"].sum() / size.prod(axis=1).sum()  # at least: masks of two classes may overlap
print(f"pixels right where nothing is found: {right_share:.1%} here, {1 - 0.0318:.1%} on Severstal's train images")
print(f"images right: {clean.mean():.0%} here, {REAL[()] / real_images:.0%} on Severstal")

# %% [markdown]
# So the share of right pixels tells nothing about defects, and what an image without a defect should count in a score has
# to be agreed on: the Dice of the same empty masks is 0, 0.47 or 0.86, depending on the convention
# ([04](04_metrics.ipynb)). (Severstal's 3.18 % of defect pixels are of all images; of the defective ones it is about 6 %.)
#
# ## 11 · One sample a row: part of a mask, and a leak
#
# The original made one sample of each table **row**. An image with two classes then appears twice, and each time the
# other class's defect is labelled *background*.

# %%
def samples(image_id):
    return rows[rows["ImageId"] == image_id].sort_values("ClassId")


crowd = data.images[data.images["masks"] > 1]["ImageId"] if several else data.images[~clean]["ImageId"]
image_id = max(crowd, key=lambda i: samples(i)["area"].min())  # where the smallest mask is still plain to see
drawn, whole = samples(image_id).head(2), data.mask(image_id)
columns = np.flatnonzero(whole.any(0))
place = np.s_[:, max(0, columns[0] - 60) : columns[-1] + 60]
figure, axes = plt.subplots(len(drawn), 1, figsize=(labels.WIDTH, 0.2 + 1.4 * len(drawn)), squeeze=False)
for n, (ax, row) in enumerate(zip(axes[:, 0], drawn.itertuples(), strict=True), 1):
    mask = mask_of(row)
    hidden = whole & ~mask
    title = f"Sample {n}, class {row.ClassId}: {hidden.sum() / whole.sum():.0%} of the defect called background"
    labels.show_window(ax, data.image(image_id)[place], title, smooth=2)
    ax.contourf(mask[place], [0.5, 1], colors=[labels.colour(row.ClassId, data.classes)], alpha=0.4)
    if hidden[place].any():
        ax.contour(hidden[place], [0.5], colors="white", linewidths=1.2, linestyles=":")
plt.show()

# %% [markdown]
# *Figure 8: One image, as the original's table served it: two samples with contradicting masks. Dotted: defect that the
# sample calls background. (A set without such images shows its one sample an image.)*
#
# What would a **perfect** network, one that marks the whole defect, score on such samples?

# %%
def perfect(image_id):
    """Dice of the whole mask against each of an image's row samples, and of the whole mask against itself."""
    whole = torch.from_numpy(data.mask(image_id))[None, None]
    parts = [torch.from_numpy(mask_of(row).copy())[None, None] for row in samples(image_id).itertuples()]
    return [metrics.dice(whole, other, empty="skip").item() for other in (*parts, whole)]


results = [perfect(image_id) for image_id in spread(crowd, 60)] if several else []
assert all(by_image == 1 for *_, by_image in results)
if results:
    score = np.mean([np.mean(by_row) for *by_row, _ in results])
    assert score < 1
    print(f"{len(results)} images with several classes: the whole truth scores {score:.2f} on their row samples")
cut_masks = int(data.images.loc[data.images["masks"] > 1, "masks"].sum())
real_cut = sum(n * len(shown) for shown, n in REAL.items() if len(shown) > 1)
print(f"samples with part of the mask missing: {cut_masks} of {len(data.rows)} here; "
      f"Severstal: {real_cut} of {real_rows} ({real_cut / real_rows:.0%})")
assert real_cut == 856

# %% [markdown]
# On all 427 such images of Severstal the whole truth scores 0.62: the better the network, the more it is told off.
#
# And the leak: rows of one image can fall on both sides of the split. The original took the first 80 % of the rows, *in
# order*. The table is sorted by image, so only the one image at the cut can be torn (in Severstal's table the cut falls
# between two images: none is). Shuffle the rows first, as most recipes do, and each image with two rows is torn with
# probability 2 · 0.8 · 0.2 = 32 %. Count it:

# %%
def shuffled_rows(seed, share=0.8):
    order = np.random.default_rng(seed).permutation(len(data.rows)).tolist()
    cut = int(share * len(order))
    return splits.RowSplit(tuple(order[:cut]), tuple(order[cut:]))


in_order = splits.leaks(data, splits.by_row(data))
torn = [len(splits.leaks(data, shuffled_rows(seed))) for seed in range(20)]
whole_images = splits.by_image(data)
print(f"images on both sides, of the {several} that could be:")
print(f"  rows in order (the original)   {len(in_order)}")
print(f"  rows shuffled, 20 seeds        {np.mean(torn):.1f} on average, {min(torn)} to {max(torn)}")
print(f"  by image                       {len(splits.leaks(data, whole_images))}")
print(f"Severstal, rows shuffled: {0.32 * 425 + (1 - 0.8**3 - 0.2**3) * 2:.0f} of {real_several} to be expected")
adjacent = (data.rows["ImageId"] != data.rows["ImageId"].shift()).sum() == data.rows["ImageId"].nunique()
assert not adjacent or len(in_order) <= 1
assert max(torn) <= several
assert splits.leaks(data, whole_images) == ()

# %% [markdown]
# So the original's split tore no image; its harms were the masks with a class missing, and **the clean images**, which no
# split by rows contains. `splits.by_image` keeps images whole, keeps the
# clean ones, and gives each set of classes its share:

# %%
sides = {"all": data, "train": data.subset(whole_images.train), "validation": data.subset(whole_images.validation)}
share = pd.DataFrame({
    name: {"images": len(s), "clean": (s.images["masks"] == 0).sum(), **{f"class {k}": (s.rows["ClassId"] == k).sum()
           for k in s.classes}} for name, s in sides.items()
})
print(share.to_string())
assert (share["train"] + share["validation"] == share["all"]).all()
row_split = splits.by_row(data)
used = {data.rows["ImageId"].iloc[i] for side in row_split for i in side}
assert len(used) == (~clean).sum()
print(f"images that no row stands for: {len(data) - len(used)} of {len(data)} (Severstal: {REAL[()]} of {real_images})")

# %% tags=["headline"]
print(f"an empty mask is right on {right_share:.1%} of pixels; row samples cut {cut_masks} of {len(data.rows)} masks, "
      f"drop {int(clean.sum())} clean images")

# %% [markdown]
# ## What to remember
#
# - Run lengths count from 1, down the columns. In today's table a clean image has no row: start from the *images*, not
#   from the table, and split by image. One sample a row cut 856 of Severstal's 7,095 masks and left out 5,902 clean
#   images.
# - An empty mask is right on about 97 % of the pixels: do not judge by that share.
# - Cut off or count the black bands before you normalise or crop. Contrast alone does not tell defects from clean steel.
#   And two outlines of one defect, four pixels apart, have a Dice of only 0.76 to 0.80 on Severstal's classes 1 and 2: do
#   not read small differences there as progress.
#
# ## Exercises
#
# 1. Swap height and width in a call of `rle.decode`. Why does no check notice? Which check on a whole data set would?
# 2. Take the contrast of 32 × 32 pixels instead of 64 × 64. Does it tell defects from clean steel better?
# 3. With which probability does a shuffled row split tear an image with three classes? Check the 32 % of images with
#    two as well, by averaging `shuffled_rows` over a thousand seeds.
#
# ## Further reading
#
# - The competition's [data page](https://www.kaggle.com/c/severstal-steel-defect-detection/data) and its rules for
#   scoring.
# - Maier-Hein, Reinke et al. 2024, [Metrics reloaded](https://arxiv.org/abs/2206.01653): what each score hides.
# - Next: [02 · How does a network that shrinks its input segment a whole sheet?](02_overlap_tile.ipynb)
