"""Files that break readers, made on the spot: `corpus()` gives more than two hundred.

Each is (name, format, content). A file of a format is put in the place of one good file of a small
data set of that format, see `make_set`.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

Case = tuple[str, str, bytes]

VOC = (
    '<?xml version="1.0"?><annotation><filename>a.png</filename><size><width>40</width>'
    "<height>30</height></size><object><name>cat</name><bndbox><xmin>3</xmin><ymin>4</ymin>"
    "<xmax>20</xmax><ymax>25</ymax></bndbox></object></annotation>"
)
CVAT = (
    "<annotations><meta><labels><label><name>cat</name></label></labels></meta>"
    '<image id="0" name="a.png" width="40" height="30">'
    '<box label="cat" xtl="3" ytl="4" xbr="20" ybr="25"/></image></annotations>'
)
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 4, 10, 10]}],
}
LABELME = {
    "imagePath": "a.png",
    "imageWidth": 40,
    "imageHeight": 30,
    "shapes": [{"label": "cat", "points": [[3, 4], [20, 25]], "shape_type": "rectangle"}],
}
YOLO = "0 0.5 0.5 0.2 0.2\n"
YAML = "train: images\nnames: [cat]\n"
# What stands where something else is expected.
VALUES = (
    None,
    True,
    -1,
    0,
    1e308,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\0",
    [],
    {},
    [[]],
)
TEXTS = ("", " ", "nan", "-inf", "1e999", "9" * 5000, "0x10", "1,5", "\u0663", "cat", "-1", "1_0")


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


def corpus() -> Iterator[Case]:
    """All cases; equal on every call."""
    yield from _broken("voc", VOC.encode())
    yield from _broken("cvat", CVAT.encode())
    yield from _broken("coco", json.dumps(COCO).encode())
    yield from _broken("labelme", json.dumps(LABELME).encode())
    yield from _broken("yaml", YAML.encode())
    yield from _broken("yolo", YOLO.encode())
    yield from _xml()
    yield from _json()
    yield from _yolo()
    yield from _images()


def _broken(kind: str, good: bytes) -> Iterator[Case]:
    """What happens to any file."""
    rng = np.random.default_rng(len(good))
    yield f"{kind} empty", kind, b""
    yield f"{kind} zeros", kind, bytes(1000)
    yield f"{kind} noise", kind, rng.bytes(1000)
    yield f"{kind} half", kind, good[: len(good) // 2]
    yield f"{kind} without its end", kind, good[:-1]
    yield f"{kind} twice", kind, good + good
    yield f"{kind} utf-16", kind, good.decode().encode("utf-16")
    yield f"{kind} byte order mark", kind, b"\xef\xbb\xbf" + good
    yield f"{kind} null bytes", kind, good.replace(b"a", b"a\0")
    yield f"{kind} latin-1", kind, good.replace(b"cat", b"c\xe4t")
    yield f"{kind} line ends", kind, good.replace(b"\n", b"\r\n").replace(b">", b">\r")
    for number in range(4):
        flipped = bytearray(good)
        flipped[rng.integers(len(good))] ^= 1 << rng.integers(8)
        yield f"{kind} flipped bit {number}", kind, bytes(flipped)


def _xml() -> Iterator[Case]:
    for text in TEXTS:
        yield f"voc xmin {text[:9]!r}", "voc", VOC.replace(">3<", f">{text}<").encode()
        yield f"voc width {text[:9]!r}", "voc", VOC.replace(">40<", f">{text}<").encode()
        yield f"cvat xtl {text[:9]!r}", "cvat", CVAT.replace('"3"', f'"{text}"').encode()
        yield f"cvat width {text[:9]!r}", "cvat", CVAT.replace('"40"', f'"{text}"').encode()
    laugh = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(9))
    head = f'<!DOCTYPE x [<!ENTITY a0 "ha">{laugh}]>'
    yield "voc billion laughs", "voc", (head + VOC[21:].replace("cat", "&a9;")).encode()
    outside = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    yield "voc external entity", "voc", (outside + VOC[21:].replace("cat", "&a;")).encode()
    yield "voc deep", "voc", b"<a>" * 100_000
    yield "voc deep and closed", "voc", b"<a>" * 50_000 + b"</a>" * 50_000
    yield "voc no root", "voc", b"<?xml version='1.0'?>"
    yield "voc another root", "voc", b"<html><body/></html>"
    yield "voc unknown encoding", "voc", VOC.replace('"1.0"', '"1.0" encoding="klingon"').encode()
    for name in ("../../etc/passwd", "/etc/passwd", "a\n.png", "", "nul\u0000"[:3], "b.png"):
        yield f"cvat name {name!r}", "cvat", CVAT.replace("a.png", name).encode()


def _json() -> Iterator[Case]:
    for number, value in enumerate(VALUES):
        for kind, content, places in (
            ("coco", COCO, ("images", "categories", "annotations")),
            ("labelme", LABELME, ("shapes",)),
        ):
            for place in places:
                for field in content[place][0]:
                    changed = json.loads(json.dumps(content))
                    changed[place][0][field] = value
                    name = f"{kind} {place} {field} {number}"
                    yield name, kind, json.dumps(changed).encode()
                changed = {**content, place: value}
                yield f"{kind} {place} {number}", kind, json.dumps(changed).encode()
    for text in ("[" * 100_000, '{"images":' * 10_000, "9" * 100_000, '"' + "x" * 100_000):
        yield f"coco {text[:5]}...", "coco", text.encode()
    for name in ("../a.png", "/etc/passwd", "a\n.png", ".", "..", "a.png/", "\ud800"):
        changed = json.loads(json.dumps(COCO))
        changed["images"][0]["file_name"] = name
        yield f"coco name {name!r}", "coco", json.dumps(changed).encode()


def _yolo() -> Iterator[Case]:
    for text in TEXTS:
        yield f"yolo class {text[:9]!r}", "yolo", f"{text} 0.5 0.5 0.2 0.2\n".encode()
        yield f"yolo x {text[:9]!r}", "yolo", f"0 {text} 0.5 0.2 0.2\n".encode()
    yield "yolo long line", "yolo", b"0" + b" 0.5" * 100_001
    for text in ("train: 7", "train: {a: b}", "train: [[1]]", "train: /", "train: ../..", "[1]"):
        yield f"yaml {text}", "yaml", f"{text}\nnames: [cat]\n".encode()
    for text in ("names: 7", "names: {a: b}", "names: [[], {}]", "names: {0: }", "a: &a [*a]"):
        yield f"yaml {text}", "yaml", f"train: images\n{text}\n".encode()
    yield "yaml python object", "yaml", b"!!python/object/apply:os.system ['exit 1']\n"


def _images() -> Iterator[Case]:
    pixels = picture()
    encode = {
        "png": pixels,
        "jpg": pixels,
        "bmp": pixels,
        "webp": pixels,
        "tiff": pixels,
        "png 16 bit": pixels.astype(np.uint16) * 257,
        "png alpha": np.dstack([pixels, pixels[..., :1]]),
        "png grey": pixels[..., 0],
        "tiff float": pixels.astype(np.float32),
    }
    for name, array in encode.items():
        good = cv2.imencode(f".{name.split()[0]}", array)[1].tobytes()
        rng = np.random.default_rng(len(good))
        yield f"image {name} as it is", "image", good
        yield f"image {name} cut", "image", good[: len(good) // 2]
        yield f"image {name} head alone", "image", good[:40]
        yield f"image {name} trailer", "image", good + rng.bytes(500)
        flipped = bytearray(good)
        for place in rng.integers(0, len(good), 5):
            flipped[place] ^= 255
        yield f"image {name} flipped", "image", bytes(flipped)
    png = cv2.imencode(".png", pixels)[1].tobytes()
    for width, height in (
        (0, 0),
        (0, 30),
        (30_000, 30_000),
        (2**31 - 1, 1),
        (2**32 - 1, 2**32 - 1),
    ):
        size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        yield f"image png says {width}x{height}", "image", png[:16] + size + png[24:]
    huge = np.zeros((20_000, 20_000), np.uint8)
    yield "image huge but small on the disk", "image", cv2.imencode(".png", huge)[1].tobytes()
    yield "image empty", "image", b""
    yield "image text", "image", b"this is no image"
    yield "image html", "image", b"<html>404</html>"


def make_set(folder: Path, kind: str) -> tuple[Path, Path, str]:
    """A data set of twelve images; gives the file that cases replace, `data` and the set's name."""
    described = kind in ("yolo", "yaml")
    images = folder / "images" if described else folder
    images.mkdir(parents=True)
    content = cv2.imencode(".png", picture())[1].tobytes()
    for name in ["a", *(f"good{i:02}" for i in range(11))]:
        (images / f"{name}.png").write_bytes(content)
        annotation = {
            "voc": VOC.replace("a.png", f"{name}.png"),
            "image": VOC.replace("a.png", f"{name}.png"),
            "labelme": json.dumps({**LABELME, "imagePath": f"{name}.png"}),
            "yolo": YOLO,
            "yaml": YOLO,
        }
        suffix = {"voc": "xml", "image": "xml", "labelme": "json", "yolo": "txt", "yaml": "txt"}
        if kind in annotation:
            (images / f"{name}.{suffix[kind]}").write_text(annotation[kind])
    if described:
        (folder / "data.yaml").write_text(YAML)
    place = {
        "voc": folder / "a.xml",
        "cvat": folder / "annotations.xml",
        "coco": folder / "instances.json",
        "labelme": folder / "a.json",
        "yaml": folder / "data.yaml",
        "yolo": images / "a.txt",
        "image": images / "a.png",
    }[kind]
    return place, place if kind == "coco" else folder, "train" if described else "all"
