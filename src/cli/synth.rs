//! `niimpi synth`: writes the phantoms that its arguments describe, on all CPUs of this process.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::console;
use crate::image_io::{CompressionLevel, Header, Image, Version, Workspace, WriteOptions};
use crate::phantom::Phantom;
pub(super) use crate::phantom::SynthArgs;
use crate::resources;
use crate::run::{EXIT_DONE, EXIT_USAGE};

/// Writes the images; an image that is there already is replaced with the same bytes.
pub(super) fn run(args: &SynthArgs) -> u8 {
    match write_all(args) {
        Ok(()) => {
            // The images are there, whoever reads this.
            let _ = console::print(format!("{} images in {}\n", args.count, args.dir.display()));
            EXIT_DONE
        }
        Err(message) => {
            eprintln!("niimpi: error: {message}");
            EXIT_USAGE
        }
    }
}

fn write_all(args: &SynthArgs) -> Result<(), String> {
    std::fs::create_dir_all(&args.dir)
        .map_err(|error| format!("{}: the folder cannot be made: {error}", args.dir.display()))?;
    let phantom = Phantom::from(&args.phantom);
    let next = AtomicU64::new(1);
    let threads =
        resources::available_cpus().min(usize::try_from(args.count).unwrap_or(usize::MAX));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| write_some(&phantom, args, threads, &next)))
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

fn write_some(
    phantom: &Phantom,
    args: &SynthArgs,
    threads: usize,
    next: &AtomicU64,
) -> Result<(), String> {
    let mut workspace = Workspace::new(CompressionLevel::default());
    let mut image = Image {
        header: Header::new(
            Version::Nifti1,
            &phantom.shape,
            phantom.datatype,
            phantom.voxel_size_mm,
        ),
        ..Image::default()
    };
    // The shape is the user's: it may ask for more memory than there is.
    let room = &mut image.volume.voxels;
    room.try_resize_for_overwrite(phantom.size_bytes())
        .map_err(|error| {
            let [x, y, z] = phantom.shape;
            format!(
                "--shape {x},{y},{z}: an image of {} takes {} MiB, and {} of them are made at once: {error}; give a smaller \
                 --shape or a narrower --datatype",
                phantom.datatype,
                phantom.size_bytes().div_ceil(1 << 20),
                threads
            )
        })?;
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index > args.count {
            return Ok(());
        }
        phantom.fill(index, &mut image.volume);
        let path = Path::new(&args.dir).join(SynthArgs::file_name(index));
        workspace
            .write(&path, &image, &WriteOptions { sync: false })
            .map_err(|error| error.to_string())?;
    }
}
