"""Numbers made up for tests: plausible in size, measured by nobody."""

import copy
import math
import random

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]
BUCKETS = [[1, 256], [256, 1024], [1024, 2048], [2048, 4096], [4096, 8193]]
SOURCE = '''class Buffer:
    """Hold lines until the caller asks for them — one at a time."""

    def __init__(self, limit=1024):
        self.limit = limit
        self.lines = []

    def append(self, line):
        if len(self.lines) >= self.limit:
            raise OverflowError("the buffer holds %d lines, which is its limit" % self.limit)
        self.lines.append(line)

    def flush(self, stream):
        for line in self.lines:
            stream.write(line & "<br>")
        self.lines.clear()

'''


def spread(**means):
    return means | {f"{name}_sd": 0.01 for name in means}


def method(after_day, final, stores_kb, stores_images=False, sd=0.012, masked=False, **more):
    return {
        "final": final,
        "final_sd": sd,
        "task_a": after_day[-1],
        "task_a_sd": sd,
        "after_day": after_day,
        "after_day_sd": [sd / 2, sd * 3, sd * 2, sd, sd],
        "stores_kb": stores_kb,
        "stores_images": stores_images,
        "needs_boundaries": False,
        "masked": masked,
        "settings": {"eta": 0.003},
        **spread(
            final_macro=final, average_incremental=0.7, forgetting=0.2, backward_transfer=-0.2, plasticity=after_day[0]
        ),
        **more,
    }


def joint(final, which):
    candidates = {
        which: spread(validation=0.97, final=final),
        "the other": spread(validation=0.96, final=0.965),
    }
    return {"final": final, "final_sd": 0.006, "which": which, "candidates": candidates}


def searched(*validation):
    steps = (0.001, 0.003, 0.01, 0.03)
    return [{"eta": e, "validation": v, "validation_sd": 0.02} for e, v in zip(steps, validation, strict=True)]


def digits():
    return {
        "seeds": 5,
        "fine_tune": method([0.991, 0.31, 0.07, 0.02, 0.004], 0.196, 2.6),
        "fine_tune_masked": method([0.991, 0.93, 0.86, 0.79, 0.71], 0.812, 2.6, sd=0.021, masked=True),
        "ewc": method([0.991, 0.68, 0.44, 0.29, 0.18], 0.402, 7.8, sd=0.044),
        "replay": method([0.991, 0.97, 0.955, 0.94, 0.93], 0.921, 53.0, True, sd=0.014),
        "nearest_mean": method([0.994, 0.97, 0.96, 0.935, 0.921], 0.893, 40.0),
        "cms": method(
            [0.99, 0.42, 0.18, 0.09, 0.05],
            0.243,
            132.0,
            sd=0.031,
            levels_moved=0.12,
            searched=searched(0.19, 0.23, 0.22, 0.15),
        ),
        "cms_one_rate": method(
            [0.99, 0.37, 0.12, 0.06, 0.02],
            0.221,
            132.0,
            sd=0.028,
            levels_moved=0.11,
            searched=searched(0.19, 0.22, 0.21, 0.16),
        ),
        "precision": method([0.999, 0.992, 0.988, 0.983, 0.978], 0.967, 4_120.0, sd=0.005),
        "raw_pixels": {
            "precision": method([0.99, 0.96, 0.95, 0.93, 0.925], 0.912, 19.0, sd=0.009),
            "fine_tune": method([0.98, 0.29, 0.06, 0.01, 0.0], 0.188, 2.6),
            "joint": joint(0.955, "MLP"),
        },
        "joint": joint(0.971, "logistic regression"),
        "reverse_difference": 2.4e-7,
        "forget_difference": 8.8e-7,
        "data": {
            "days": DAYS,
            "digits_of_the_days": [[[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]] * 5,
            "train_images": 1_077,
            "validation_images": 270,
            "test_images": 450,
            "train_images_kb": 67.3,
            "batch_size": 4,
            "features": {"kind": "random_relu", "dim": 500},
        },
        "seconds": 48.0,
    }


def reading():
    rows = {
        "frozen": [3.81, 3.42, 3.16, 3.02, 2.94],
        "learning": [3.78, 3.18, 2.81, 2.55, 2.41],
        "control": [3.95, 3.61, 3.41, 3.29, 3.22],
        "one_rate": [3.78, 3.20, 2.83, 2.56, 2.40],
        "all_weights": [3.77, 3.12, 2.72, 2.44, 2.29],
        "gzip": [5.62, 3.71, 3.10, 2.66, 2.33],
        "ngram": [3.25, 3.34, 3.12, 3.13, 2.95],
        "ngram_online": [3.10, 2.90, 2.38, 2.16, 2.00],
    }
    offsets = [-0.5, -0.3, -0.1, 0.0, 0.05, 0.15, 0.3, 0.4]
    tilt = {"frozen": 0.0, "learning": 0.08, "control": -0.05, "ngram_online": 0.15}
    per_file = {
        name: [[mean + o + tilt.get(name, 0.02) * o for mean in means] for o in offsets] for name, means in rows.items()
    }
    return {
        "buckets": BUCKETS,
        **rows,
        **{f"{name}_sd": [0.31] * len(BUCKETS) for name in rows},
        "per_file": per_file,
        "files": [f"package/module_{i}.py" for i in range(len(offsets))],
        "own_text": False,
        "kept": {"before": 2.61, "after": 2.65, "change_sd": 0.02, "files": 8},
        "one_rate_kept": {"before": 2.61, "after": 2.92, "change_sd": 0.08, "files": 8},
        "no_restart_kept": {"before": 2.61, "after": 2.81, "change_sd": 0.07, "files": 8},
        "one_rate_restart_kept": {"before": 2.61, "after": 2.75, "change_sd": 0.05, "files": 8},
        "levels": {
            "learning": [
                {"name": "fast", "update_period": 64, "eta": 0.3, "anchor_decay": 0.0, "reset": "document"},
                {"name": "slow", "update_period": 1024, "eta": 0.3, "anchor_decay": 0.0, "reset": None},
            ],
            "one_rate": [
                {"name": "fast", "update_period": 64, "eta": 0.1, "anchor_decay": 0.0, "reset": None},
                {"name": "slow", "update_period": 64, "eta": 0.1, "anchor_decay": 0.0, "reset": None},
            ],
        },
        "first_again": {"before": 2.41, "after": 2.18, "change_sd": 0.1, "frozen": 2.94},
        "names": {
            "frozen": [4.1, 3.0, 2.8, 2.7, 2.6],
            "learning": [4.0, 2.4, 1.9, 1.6, 1.5],
            "count": 212,
            "extra_sd": 0.3,
        },
        "isolation": {"identical": True},
        "base": {
            "train_bytes": 1_000_382,
            "text_bytes": 3_000_946,
            "steps": 900,
            "seconds": 61.0,
            "parameters": 134_656,
            "last_loss": 1.98,
            "seed": 0,
            "text": "db04b2e7",
            "heldout_bits": 2.61,
        },
    }


def results():
    return {
        "digits": digits(),
        "reading": reading(),
        "restart": {
            "identical": True,
            "kills": 2,
            "killed_at": 5_003,
            "resumed_at": 4_992,
            "lost_tokens": 11,
            "lost_tokens_each": [64, 11],
        },
        "rollback": {"identical": True, "level": "fast"},
        "seconds": 158.3,
        "environment": {
            "python": "3.11.7",
            "torch": "2.13.0+cpu",
            "threads": 2,
            "device": "cpu",
            "platform": "Linux-6.1-x86_64",
        },
    }


def changed(**values):
    """Return the fixture with some dotted paths replaced; `a__b` stands for a.b."""
    new = copy.deepcopy(results())
    new["reading"].pop("per_file")
    for path, value in values.items():
        *parents, last = path.split("__")
        row = new
        for key in parents:
            row = row[key]
        row[last] = value
    return new


# a zero, as it stands in an 8 x 8 image
ZERO = """
0 0 5 13 9 1 0 0
0 0 13 15 10 15 5 0
0 3 15 2 0 11 8 0
0 4 12 0 0 8 8 0
0 5 8 0 0 9 8 0
0 4 11 0 1 12 7 0
0 2 14 5 10 12 0 0
0 0 6 13 10 0 0 0
"""


def pictures():
    draw = random.Random(0)
    text = list((SOURCE * 20).encode()[:8192])
    saved = [draw.gauss(0.7 * math.tanh(i / 3000), 1.3) for i in range(len(text))]
    answers = {
        "fine_tune": [0, 3, 5, 7, 9],
        "fine_tune_masked": [0, 0, 0, 6, 6],
        "ewc": [0, 0, 5, 5, 9],
        "replay": [0, 0, 0, 0, 0],
        "nearest_mean": [0, 0, 0, 0, 0],
        "cms": [0, 2, 5, 7, 9],
        "cms_one_rate": [0, 3, 5, 7, 8],
        "precision": [0, 0, 0, 0, 0],
    }
    return {
        "digit": {"pixels": [float(v) for v in ZERO.split()], "label": 0, "days": DAYS, "answers": answers},
        "bytes": {"name": "package/buffer.py", "text_bytes": text, "saved_bits": saved},
    }
