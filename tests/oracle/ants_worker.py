"""Denoises images with ANTs, one after the other: run by the Python that has antspyx, with a task a line.

A task is JSON: image, model, patch, search, and result, where the voxels are written as .npy. The reply is a
line with the processor seconds, or with the error.
"""

import json
import sys
import time

import ants
import numpy as np


def radius(radii):
    return radii if isinstance(radii, int) else "x".join(map(str, radii))


def denoise(task):
    image = ants.image_read(task["image"])
    started = time.process_time()
    denoised = ants.denoise_image(
        image, p=radius(task["patch"]), r=radius(task["search"]), noise_model=task["model"]
    )
    seconds = time.process_time() - started
    np.save(task["result"], denoised.numpy())
    return {"cpu_s": seconds}


print(json.dumps({"version": ants.__version__}), flush=True)
for line in sys.stdin:
    try:
        reply = denoise(json.loads(line))
    except Exception as error:
        reply = {"error": repr(error)}
    print(json.dumps(reply), flush=True)
