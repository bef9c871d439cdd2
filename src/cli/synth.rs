//! `niimpi synth`: its arguments, and writing the phantoms that they describe on all CPUs of this process.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::console;
use crate::image_io::{Header, Image, ImageWriter, Version};
use crate::parallel::par_map;
use crate::phantom::Phantom;
use crate::resources;
use crate::run::EXIT_DONE;
use crate::text::{counted, mib};
use crate::volume::Datatype;

/// The longest axis that a NIfTI-1 header can state.
const MAX_AXIS: usize = i16::MAX as usize;

/// Write synthetic brain-like images for trials and tests
///
/// Each image is a head of nested ellipsoids with Rician noise. The same options give the same bytes on every
/// machine.
#[derive(Args, Clone, Debug)]
pub(super) struct SynthArgs {
    /// Folder for the images DIR/sample_1.nii.gz, DIR/sample_2.nii.gz, …; created if missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Number of images
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,

    /// Replace images that exist already
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    phantom: PhantomArgs,
}

// The parameters of a phantom, as typed. A doc comment would replace the help text of the command.
#[derive(Args, Clone, Debug)]
struct PhantomArgs {
    /// Voxels along x, y and z
    #[arg(long, value_name = "X,Y,Z", default_value = "91,109,91", value_parser = parse_shape)]
    shape: [usize; 3],

    /// Type of a voxel
    #[arg(long, value_name = "TYPE", default_value = "uint8", value_parser = datatype_parser())]
    datatype: Datatype,

    /// Noise: the standard deviation of n₁ and n₂ in percent of white matter's intensity; 0 for none
    #[arg(long, value_name = "PERCENT", default_value = "5", value_parser = parse_noise)]
    noise: f64,

    /// Seed: the same seed and options give the same bytes, on every machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Distance between voxel centres along x, y and z, in mm
    #[arg(long, value_name = "X,Y,Z", default_value = "2,2,2", value_parser = parse_voxel_size)]
    voxel_size: [f64; 3],
}

/// Writes the images.
pub(super) fn run(args: &SynthArgs) -> Result<u8, String> {
    std::fs::create_dir_all(&args.dir)
        .map_err(|error| format!("{}: the folder cannot be made: {error}", args.dir.display()))?;
    if !args.overwrite {
        refuse_replacing(args)?;
    }
    let phantom = Phantom::from(&args.phantom);
    let next = AtomicU64::new(1);
    let threads = resources::available_cpus().min(usize::try_from(args.count).unwrap_or(usize::MAX));
    let workers = vec![(); threads];
    par_map(&workers, threads, |()| write_some(&phantom, args, threads, &next))
        .into_iter()
        .collect::<Result<(), String>>()?;
    // The images are there, whoever reads this.
    let images = counted(args.count as usize, "image");
    let _ = console::print(format!("{images} in {}\n", args.dir.display()));
    Ok(EXIT_DONE)
}

fn refuse_replacing(args: &SynthArgs) -> Result<(), String> {
    let entries = std::fs::read_dir(&args.dir)
        .map_err(|error| format!("{}: cannot be read: {error}", args.dir.display()))?;
    let number = |name: &std::ffi::OsStr| {
        let name = name.to_str()?;
        let index = name
            .strip_prefix("sample_")?
            .strip_suffix(".nii.gz")?
            .parse()
            .ok()?;
        (name == SynthArgs::file_name(index) && (1..=args.count).contains(&index)).then_some(index)
    };
    let existing: Vec<u64> = entries
        .filter_map(|entry| number(&entry.ok()?.file_name()))
        .collect();
    match existing.iter().min() {
        None => Ok(()),
        Some(&first) => Err(format!(
            "{}: {} of the {} images exist already, the first is {}; add --overwrite to replace them, or \
             give another folder",
            args.dir.display(),
            existing.len(),
            args.count,
            SynthArgs::file_name(first)
        )),
    }
}

fn write_some(phantom: &Phantom, args: &SynthArgs, threads: usize, next: &AtomicU64) -> Result<(), String> {
    let mut writer = ImageWriter::new().sync(false);
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
                "--shape {x},{y},{z}: an image of {} takes {} MiB, and {} of them are made at once: \
                 {error}; give a smaller \
                 --shape or a narrower --datatype",
                phantom.datatype,
                mib(phantom.size_bytes() as u64),
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
        writer.write(&path, &image).map_err(|error| error.to_string())?;
    }
}

impl SynthArgs {
    /// Name of the file of image `index`, counted from 1.
    fn file_name(index: u64) -> String {
        format!("sample_{index}.nii.gz")
    }
}

impl From<&PhantomArgs> for Phantom {
    fn from(args: &PhantomArgs) -> Phantom {
        Phantom {
            shape: args.shape,
            voxel_size_mm: args.voxel_size,
            datatype: args.datatype,
            noise: args.noise / 100.0,
            seed: args.seed,
        }
    }
}

fn parse_three<T: std::str::FromStr>(text: &str) -> Result<[T; 3], String> {
    text.split(',')
        .map(|part| part.trim().parse())
        .collect::<Result<Vec<T>, _>>()
        .ok()
        .and_then(|parts| parts.try_into().ok())
        .ok_or_else(|| "expected three numbers separated by commas".to_owned())
}

fn parse_shape(text: &str) -> Result<[usize; 3], String> {
    let shape = parse_three(text)?;
    if shape.iter().all(|length| (1..=MAX_AXIS).contains(length)) {
        Ok(shape)
    } else {
        Err(format!("each axis must have 1 to {MAX_AXIS} voxels"))
    }
}

fn parse_voxel_size(text: &str) -> Result<[f64; 3], String> {
    let size = parse_three(text)?;
    if size.iter().all(|&mm: &f64| mm.is_finite() && mm > 0.0) {
        Ok(size)
    } else {
        Err("voxel sizes must be positive".to_owned())
    }
}

fn parse_noise(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("expected a percentage from 0 to 100".to_owned()),
    }
}

fn datatype_parser() -> impl TypedValueParser<Value = Datatype> {
    PossibleValuesParser::new(Datatype::ALL.map(Datatype::name)).map(|name| {
        *Datatype::ALL
            .iter()
            .find(|datatype| datatype.name() == name)
            .expect("clap lets only the names of types pass")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        synth: SynthArgs,
    }

    fn parse(arguments: &[&str]) -> Result<SynthArgs, String> {
        use clap::Parser;
        Command::try_parse_from([&["synth"], arguments].concat())
            .map(|command| command.synth)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn existing_images_are_replaced_only_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("d");
        let words = |more: &[&'static str]| {
            let dir = dir.to_str().unwrap();
            parse(&[&[dir, "--count=12", "--shape=4,4,4"], more].concat()).unwrap()
        };
        assert_eq!(run(&words(&[])), Ok(EXIT_DONE));
        for name in ["sample_9.nii.gz", "sample_11.nii.gz"] {
            std::fs::write(dir.join(name), "mine").unwrap();
        }
        std::fs::remove_file(dir.join("sample_1.nii.gz")).unwrap();
        let error = run(&words(&[])).unwrap_err();
        assert!(
            error.contains("11 of the 12 images exist already, the first is sample_2.nii.gz"),
            "{error}"
        );
        assert!(error.contains("--overwrite"), "{error}");
        assert_eq!(std::fs::read(dir.join("sample_9.nii.gz")).unwrap(), b"mine");
        assert!(!dir.join("sample_1.nii.gz").exists());
        assert_eq!(run(&words(&["--overwrite"])), Ok(EXIT_DONE));
        assert_ne!(std::fs::read(dir.join("sample_9.nii.gz")).unwrap(), b"mine");
    }

    #[test]
    fn files_that_synth_does_not_name_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "sample_01.nii.gz",
            "sample_0.nii.gz",
            "sample_3.nii.gz",
            "x.nii.gz",
        ] {
            std::fs::write(folder.path().join(name), "mine").unwrap();
        }
        let dir = folder.path().to_str().unwrap();
        assert_eq!(
            run(&parse(&[dir, "--count=2", "--shape=4,4,4"]).unwrap()),
            Ok(EXIT_DONE)
        );
    }

    #[test]
    fn the_command_line_defaults_are_the_default_phantom() {
        let args = parse(&["data"]).unwrap();
        assert_eq!(Phantom::from(&args.phantom), Phantom::default());
        assert_eq!((args.count, args.dir), (400, PathBuf::from("data")));
        assert_eq!(SynthArgs::file_name(12), "sample_12.nii.gz");
    }

    #[test]
    fn the_command_line_is_checked() {
        let args = parse(&[
            "d",
            "--shape",
            "8,9,10",
            "--datatype=float32",
            "--noise=0",
            "--voxel-size=1,1,2.5",
        ])
        .unwrap();
        let phantom = Phantom::from(&args.phantom);
        assert_eq!(
            (phantom.shape, phantom.datatype, phantom.noise),
            ([8, 9, 10], Datatype::Float32, 0.0)
        );
        assert_eq!(phantom.voxel_size_mm, [1.0, 1.0, 2.5]);
        for (arguments, said) in [
            (&["d", "--shape", "8,9"][..], "three numbers"),
            (&["d", "--shape", "8,9,0"], "1 to 32767"),
            (&["d", "--shape", "8,9,40000"], "1 to 32767"),
            (&["d", "--noise", "nan"], "percentage"),
            (&["d", "--noise=-1"], "percentage"),
            (&["d", "--voxel-size", "1,0,1"], "positive"),
            (&["d", "--voxel-size", "1,inf,1"], "positive"),
            (&["d", "--datatype", "complex64"], "float32"),
            (&["d", "--count", "0"], "1.."),
            (&[], "<DIR>"),
        ] {
            let error = parse(arguments).unwrap_err();
            assert!(error.contains(said), "{arguments:?}: {error}");
        }
    }
}
