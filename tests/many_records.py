"""Many records made from one real record, to test and measure what reads them: as files, or as lines.

python tests/many_records.py RECORD.coda.json 10000 FOLDER
python tests/many_records.py RECORD.coda.json 100000 LINES.jsonl
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def records(real: dict[str, Any], count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Variations of a record of the network cifar10: other names, classes and numbers, which still add up."""
    numbers = random.Random(seed)
    for n in range(count):
        label, best, second = numbers.choice(CLASSES), *numbers.sample(range(10), 2)
        if numbers.random() < 0.6:
            best, second = CLASSES.index(label), (CLASSES.index(label) + 1) % 10
        record = deepcopy(real)
        record["source"]["path"] = f"data/{label}/{n}.png"
        p, q = sorted((numbers.random(), numbers.random()), reverse=True)
        for place, (index, probability) in enumerate(((best, p), (second, q))):
            record["top"][place] |= {"index": index, "name": CLASSES[index], "probability": probability}
        _change(record["explained"][0], numbers, best, p)
        yield record


def _change(part: dict[str, Any], numbers: random.Random, index: int, probability: float) -> None:
    """Give the explained class other numbers."""
    positive, negative = numbers.uniform(0, 10), -numbers.uniform(0, 8)
    part |= {"index": index, "name": CLASSES[index], "probability": probability}
    part |= {"positive": positive, "negative": negative}
    part["positional"] = numbers.uniform(-1, 1)
    part["logit"] = positive + negative + part["positional"] + part["bias"] + part["residual"]
    part["evidence"]["half_share"] = numbers.random()
    if part["regions"]:
        share, area = numbers.random(), numbers.uniform(0.1, 0.9)
        *regions, rest = *part["regions"]["regions"], part["regions"]["rest"]
        for region in regions:
            region |= {"share": share / len(regions), "area": area / len(regions), "ratio": share / area}
        rest |= {"share": 1 - share, "area": 1 - area, "ratio": (1 - share) / (1 - area)}


def main() -> None:
    real = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    count, target = int(sys.argv[2]), Path(sys.argv[3])
    if target.suffix == ".jsonl":
        with target.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in records(real, count))
        return
    target.mkdir(parents=True)
    for n, record in enumerate(records(real, count)):
        (target / f"{n}.coda.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
