"""Writers of other people's formats for the tests, independent of the library's readers.

`masks` is ImageId → class name → mask, bool [H, W]; images are flat PNG files of the masks' size.
"""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.measure import label as components


def image(path: Path, shape, gray=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, gray, np.uint8)).save(path)


def images(folder: Path, masks, below="images"):
    for name, each in masks.items():
        image(folder / below / name, next(iter(each.values())).shape)


def names_of(masks):
    return sorted({name for each in masks.values() for name in each})


def counts(flat):
    """Lengths of runs, beginning with False, pixel by pixel."""
    found, last = [0], False
    for pixel in flat.tolist():
        if pixel != last:
            found.append(0)
            last = pixel
        found[-1] += 1
    return found


def compressed(runs):
    """COCO's text of run-lengths."""
    text = []
    for k, run in enumerate(runs):
        value = run - (runs[k - 2] if k > 2 else 0)
        while True:
            bits, value = value & 31, value >> 5
            more = not ((value == -1 and bits & 16) or (value == 0 and not bits & 16))
            text.append(chr(48 + bits + 32 * more))
            if not more:
                break
    return "".join(text)


def outline(part):
    """The closed line along the pixels' edges of a 4-connected part without holes, walked square by square."""
    edges = {}
    height, width = part.shape
    for y, x in zip(*np.nonzero(part), strict=True):
        for (dy, dx), a, b in (((-1, 0), (x, y), (x + 1, y)), ((0, 1), (x + 1, y), (x + 1, y + 1)),
                               ((1, 0), (x + 1, y + 1), (x, y + 1)), ((0, -1), (x, y + 1), (x, y))):
            v, u = y + dy, x + dx
            if not (0 <= v < height and 0 <= u < width and part[v, u]):
                edges.setdefault((int(a[0]), int(a[1])), []).append((int(b[0]), int(b[1])))
    start = at = next(iter(edges))
    line, before = [start], None
    while True:
        nexts = edges[at]
        if len(nexts) > 1 and before is not None:  # where two pixels meet at a corner: turn right, and stay on this one
            dx, dy = at[0] - before[0], at[1] - before[1]
            nexts.sort(key=lambda to: (to[0] - at[0], to[1] - at[1]) != (-dy, dx))
        to = nexts.pop(0)
        if not nexts:
            del edges[at]
        before, at = at, to
        if at == start and start not in edges:
            break
        line.append(at)
    return line if not edges else None  # a hole is left over


def solid(mask):
    """The mask with the holes of each part filled, and its parts' outlines."""
    filled, lines = np.zeros_like(mask), []
    labels = components(mask, connectivity=1)
    for k in range(1, labels.max() + 1):
        part = np.pad(labels == k, 1)
        outside = components(~part, connectivity=2)
        part = (outside != outside[0, 0])[1:-1, 1:-1]
        filled |= part
        lines.append(outline(part))
    return filled, lines


def coco(folder: Path, masks, form, file="annotations.json"):
    """form: "polygons", "counts" (uncompressed) or "compressed"."""
    names = names_of(masks)
    document = {"images": [], "annotations": [], "categories": [{"id": 7 + k, "name": n} for k, n in enumerate(names)]}
    for number, (name, each) in enumerate(masks.items()):
        height, width = next(iter(each.values())).shape
        document["images"].append({"id": 100 + number, "file_name": name, "height": height, "width": width})
        for kind, mask in each.items():
            if not mask.any():
                continue
            if form == "polygons":
                segmentation = [[c for point in line for c in point] for line in solid(mask)[1]]
            else:
                segmentation = {"size": [height, width], "counts": counts(mask.ravel(order="F"))}
                if form == "compressed":
                    segmentation["counts"] = compressed(segmentation["counts"])
            document["annotations"].append({"id": len(document["annotations"]) + 1, "image_id": 100 + number,
                                            "category_id": 7 + names.index(kind), "iscrowd": 0,
                                            "segmentation": segmentation})
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(document))


def labelme(folder: Path, masks, form):
    """form: "polygons" or "masks"; the images lie beside."""
    for name, each in masks.items():
        shapes = []
        height, width = next(iter(each.values())).shape
        for kind, mask in each.items():
            if mask.any() and form == "masks":
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                (top, bottom), (left, right) = rows[[0, -1]], columns[[0, -1]]
                content = io.BytesIO()
                Image.fromarray(mask[top : bottom + 1, left : right + 1]).save(content, "PNG")
                shapes.append({"label": kind, "shape_type": "mask", "points": [[float(left), float(top)],
                               [float(right), float(bottom)]],
                               "mask": base64.b64encode(content.getvalue()).decode()})
            elif mask.any():
                shapes += [{"label": kind, "shape_type": "polygon", "points": line} for line in solid(mask)[1]]
        document = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None,
                    "imageHeight": height, "imageWidth": width}
        (folder / name).with_suffix(".json").write_text(json.dumps(document))


def cvat(folder: Path, masks, form, file="annotations.xml"):
    """form: "polygons" or "masks"."""
    labels = "".join(f"<label><name>{n}</name></label>" for n in names_of(masks))
    lines = [f"<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"]
    for number, (name, each) in enumerate(masks.items()):
        height, width = next(iter(each.values())).shape
        lines.append(f'<image id="{number}" name="{name}" width="{width}" height="{height}">')
        for kind, mask in each.items():
            if mask.any() and form == "masks":
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                (top, bottom), (left, right) = rows[[0, -1]], columns[[0, -1]]
                runs = ", ".join(map(str, counts(mask[top : bottom + 1, left : right + 1].ravel())))
                lines.append(f'<mask label="{kind}" occluded="0" rle="{runs}" left="{left}" top="{top}" '
                             f'width="{right + 1 - left}" height="{bottom + 1 - top}" z_order="0"></mask>')
            elif mask.any():
                lines += [f'<polygon label="{kind}" points="{";".join(f"{x:.2f},{y:.2f}" for x, y in line)}"></polygon>'
                          for line in solid(mask)[1]]
        lines.append("</image>")
    (folder / file).write_text("\n".join([*lines, "</annotations>"]))


def yolo(folder: Path, masks, form="polygons", names_file=True):
    names = names_of(masks)
    for name, each in masks.items():
        lines = []
        for kind, mask in each.items():
            height, width = mask.shape
            for line in solid(mask)[1]:
                shares = (f"{c:.9f}" for x, y in line for c in (x / width, y / height))
                lines.append(" ".join([str(names.index(kind)), *shares]))
        path = folder / "labels" / Path(name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
    if names_file:
        (folder / "data.yaml").write_text(f"train: images\nnc: {len(names)}\nnames: {names}\n")


def palette(folder: Path, masks, form=None):
    """Indexed PNG; classes must not overlap."""
    names = names_of(masks)
    colours = np.arange(256) * 65_537 % 16_777_213
    for name, each in masks.items():
        indices = np.zeros(next(iter(each.values())).shape, np.uint8)
        for kind, mask in each.items():
            indices[mask] = names.index(kind) + 1
        picture = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
        picture.putpalette(bytes(c for colour in colours.tolist() for c in colour.to_bytes(3, "big")))
        path = folder / "masks" / Path(name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


WRITERS = {
    "coco polygons": (coco, "polygons", "images"), "coco counts": (coco, "counts", "images"),
    "coco compressed": (coco, "compressed", "images"), "labelme polygons": (labelme, "polygons", "."),
    "labelme masks": (labelme, "masks", "."), "cvat polygons": (cvat, "polygons", "images"),
    "cvat masks": (cvat, "masks", "images"), "yolo": (yolo, "polygons", "images"), "palette": (palette, None, "images"),
}


def publish(folder: Path, masks, writer):
    write, form, below = WRITERS[writer]
    images(folder, masks, below)
    write(folder, masks, form)
    return folder
