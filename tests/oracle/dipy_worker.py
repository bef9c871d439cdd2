"""Denoises images with dipy, one after the other: run by the Python that has dipy, with a task a line.

A task is JSON: image, method, sigma (null: estimated), patch, block, rician, mask (null: none), and result,
where the voxels are written as .npy. The reply is a line with the processor seconds, or with the error.
"""

import json
import sys
import time

import dipy
import nibabel
import numpy as np
from dipy.denoise.nlmeans import nlmeans
from dipy.denoise.noise_estimate import estimate_sigma


def denoise(task):
    intensities = np.asarray(nibabel.load(task["image"]).dataobj).astype(np.float64)
    mask = None if task["mask"] is None else np.asarray(nibabel.load(task["mask"]).dataobj) > 0
    started = time.process_time()
    sigma = task["sigma"]
    if sigma is None:
        sigma = estimate_sigma(intensities)
    denoised = nlmeans(
        intensities,
        sigma=sigma,
        mask=mask,
        patch_radius=task["patch"],
        block_radius=task["block"],
        rician=task["rician"],
        num_threads=1,
        method=task["method"],
    )
    seconds = time.process_time() - started
    np.save(task["result"], denoised)
    return {"cpu_s": seconds}


print(json.dumps({"version": dipy.__version__}), flush=True)
for line in sys.stdin:
    try:
        reply = denoise(json.loads(line))
    except Exception as error:
        reply = {"error": repr(error)}
    print(json.dumps(reply), flush=True)
