"""Denoises and smooths images, one after the other: run by the Python that has antspyx, with a task a line.

A task is JSON: image, and result, where the voxels are written as .npy; model, patch and search to denoise,
perhaps with mask, shrink and noise (for the removed noise); tool and fwhm to smooth. The reply is a line with
the processor seconds, or with the error.
"""

import json
import sys
import time

import ants
import nibabel
import numpy as np
import SimpleITK
from ants.internal import get_lib_fn, process_arguments
from nilearn.image import smooth_img


def radius(radii):
    return radii if isinstance(radii, int) else "x".join(map(str, radii))


def noise_of(image, task):
    """What the command DenoiseImage writes as its second output."""
    files = [f"{task['result']}.{what}.nii" for what in ("denoised", "noise")]
    words = {"d": image.dimension, "i": image, "n": task["model"], "s": task.get("shrink", 1)}
    words |= {"p": radius(task["patch"]), "r": radius(task["search"]), "o": f"[{','.join(files)}]"}
    get_lib_fn("DenoiseImage")(process_arguments(words))
    return ants.image_read(files[1])


def denoise(task):
    image = ants.image_read(task["image"])
    if task.get("noise"):
        np.save(task["result"], noise_of(image, task).numpy())
        return {"cpu_s": 0.0}
    more = {"shrink_factor": task.get("shrink", 1)}
    if "mask" in task:
        inside = (ants.image_read(task["mask"]).numpy() > 0).astype(np.uint8)
        more["mask"] = ants.from_numpy(
            inside, spacing=image.spacing, origin=image.origin, direction=image.direction
        )
    started = time.process_time()
    denoised = ants.denoise_image(
        image, p=radius(task["patch"]), r=radius(task["search"]), noise_model=task["model"], **more
    )
    seconds = time.process_time() - started
    np.save(task["result"], denoised.numpy())
    return {"cpu_s": seconds}


def smooth(task):
    started = time.process_time()
    path, fwhm = task["image"], task["fwhm"]
    if task["tool"] == "ants":
        voxels = ants.smooth_image(ants.image_read(path), fwhm, FWHM=True).numpy()
    elif task["tool"] == "nilearn":
        voxels = np.asarray(smooth_img(nibabel.load(path), fwhm).dataobj)
    else:
        sigma = np.broadcast_to(np.asarray(fwhm, float), 3) / 2.3548200450309493
        variance = [float(value) ** 2 for value in sigma]
        image = SimpleITK.DiscreteGaussian(SimpleITK.ReadImage(path), variance, 32, [0.01] * 3, True)
        voxels = SimpleITK.GetArrayFromImage(image).T
    np.save(task["result"], voxels)
    return {"cpu_s": time.process_time() - started}


print(json.dumps({"version": ants.__version__}), flush=True)
for line in sys.stdin:
    try:
        task = json.loads(line)
        reply = smooth(task) if "tool" in task else denoise(task)
    except Exception as error:
        reply = {"error": repr(error)}
    print(json.dumps(reply), flush=True)
