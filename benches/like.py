"""Prints how the presets of `niimpi smooth --like` differ from each other, as Markdown.

usage: NIIMPI_BIN=target/release/niimpi like.py      needs numpy and nibabel

Smooths a phantom of `niimpi synth` with every preset, and an impulse, whose result is the kernel.
"""

import os
import subprocess
import tempfile
from pathlib import Path

import nibabel
import numpy as np

NIIMPI = os.environ["NIIMPI_BIN"]
TOOLS = ("fsl", "niimath", "spm", "nilearn", "nibabel", "mrtrix", "wb", "afni", "itk", "ants")
FWHM = 6
VOXEL = 3
WIDTHS_VOX = (0.6, 2, 6)
SIGMA_PER_FWHM = 1 / 2.3548200450309493


def smoothed(folder, image, *words):
    output = folder / "out"
    command = [NIIMPI, "smooth", image.name, "--output", output, "--overwrite", "--quiet", *words]
    subprocess.run([str(word) for word in command], check=True, cwd=folder)
    return np.asarray(nibabel.load(output / image.name).dataobj).astype(float)


def effective_sigma(folder, tool, fwhm_vox):
    """Sigma of the kernel over the sigma that was asked for; along x."""
    length = 101
    array = np.zeros((length, 41, 41), np.float32)
    array[length // 2, 20, 20] = 1e6
    image = folder / "impulse.nii"
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), image)
    line = smoothed(folder, image, f"--like={tool}", f"--fwhm={fwhm_vox}").sum((1, 2))
    x = np.arange(length) - length // 2
    return np.sqrt((line * x**2).sum() / line.sum()) / (fwhm_vox * SIGMA_PER_FWHM)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [NIIMPI, "synth", folder / "phantom", "--count=1", "--shape=61,73,61", "--datatype=float32"]
        command += [f"--voxel-size={VOXEL},{VOXEL},{VOXEL}", "--seed=1", "--noise=2"]
        subprocess.run(command, check=True, capture_output=True)
        phantom = next((folder / "phantom").glob("*.nii*"))
        image = folder / phantom.name
        phantom.rename(image)
        results = {tool: smoothed(folder, image, f"--like={tool}", f"--fwhm={FWHM}") for tool in TOOLS}
        results["(none)"] = smoothed(folder, image, f"--fwhm={FWHM}")
        largest = np.abs(results["niimath"]).max()
        inner = tuple(slice(8, -8) for _ in range(3))
        print(f"FWHM {FWHM} mm, voxels of {VOXEL} mm: difference from niimath / largest intensity\n")
        print("| `--like` | whole image | 8 voxels or more from the edge |\n|---|---:|---:|")
        for tool, result in results.items():
            difference = np.abs(result - results["niimath"])
            print(f"| {tool} | {difference.max() / largest:.1e} | {difference[inner].max() / largest:.1e} |")
        print("\nSigma of the kernel / sigma that was asked for:\n")
        print("| `--like` | " + " | ".join(f"FWHM {width} voxels" for width in WIDTHS_VOX) + " |")
        print("|---|" + "---:|" * len(WIDTHS_VOX))
        for tool in TOOLS:
            sigmas = [f"{effective_sigma(folder, tool, width):.3f}" for width in WIDTHS_VOX]
            print(f"| {tool} | " + " | ".join(sigmas) + " |")


if __name__ == "__main__":
    main()
