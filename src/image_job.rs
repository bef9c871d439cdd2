//! One image's way: read → filter → write, each stage timed. Knows nothing of ranks.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::filter::gaussian::PerAxis;
use crate::filter::{self, Filter, OutputSpec, Rounding};
use crate::image_io::{CompressionLevel, Image, Workspace, WriteOptions};
use crate::report::{FilterDescription, Stage, printable};

/// What is done to every image.
#[derive(Clone, Debug)]
pub struct ImageJob {
    /// The filter.
    pub filter: Filter,
    /// The results' type.
    pub output: OutputSpec,
    /// How hard results are compressed.
    pub compression: CompressionLevel,
    /// Whether a result is on the disk before its name appears.
    pub sync: bool,
}

impl ImageJob {
    /// Taps of the kernels along all axes together, for an estimate of an image's cost; of a voxel of 2 mm with `--fwhm`.
    pub fn kernel_width_vox(&self) -> f64 {
        const USUAL_VOXEL_MM: [f64; 3] = [2.0; 3];
        let Filter::Gaussian(gaussian) = &self.filter;
        let radii = gaussian.radius_vox(USUAL_VOXEL_MM).unwrap_or_default();
        radii.iter().map(|&radius| 2.0 * radius as f64 + 1.0).sum()
    }

    /// The filter as it was asked for, for the report.
    pub fn describe(&self) -> FilterDescription {
        let Filter::Gaussian(gaussian) = &self.filter;
        let xyz =
            |values: Option<PerAxis>| values.map_or(Vec::new(), |values| values.xyz().to_vec());
        // Sigma in voxels holds for every image, so the voxel size does not matter.
        let radii = gaussian
            .sigma
            .and_then(|_| gaussian.radius_vox([1.0; 3]).ok());
        FilterDescription {
            name: self.filter.name().to_owned(),
            sigma_vox: xyz(gaussian.sigma),
            fwhm_mm: xyz(gaussian.fwhm),
            boundary: gaussian.boundary.name().to_owned(),
            cval: gaussian.cval,
            truncate: gaussian.truncate,
            radius_vox: radii.map_or(Vec::new(), |radii| radii.to_vec()),
            output_type: self.output.output_type.to_string(),
            round: match self.output.round {
                Rounding::Truncate => "truncate",
                Rounding::Nearest => "nearest",
            }
            .to_owned(),
        }
    }
}

/// What an image took. Of a failed one, what it took until then.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taken {
    /// Seconds of each stage.
    pub read_s: f64,
    /// Filtering.
    pub filter_s: f64,
    /// Writing.
    pub write_s: f64,
    /// Voxels of all volumes.
    pub voxels: u64,
    /// Bytes of the input file.
    pub bytes_in: u64,
    /// Bytes of the result's file.
    pub bytes_out: u64,
}

/// Where and why an image was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The stage.
    pub stage: Stage,
    /// The cause with the path, in one sentence.
    pub error: String,
}

/// A worker's own buffers, reused from image to image.
pub struct ImageWorker<'a> {
    job: &'a ImageJob,
    workspace: Workspace,
    image: Image,
    scratch: filter::Scratch,
    folder_made: PathBuf,
}

impl<'a> ImageWorker<'a> {
    /// A worker with empty buffers; they grow with the first image.
    pub fn new(job: &'a ImageJob) -> Self {
        Self {
            job,
            workspace: Workspace::new(job.compression),
            image: Image::default(),
            scratch: filter::Scratch::default(),
            folder_made: PathBuf::new(),
        }
    }

    /// Carries one image its whole way. `taken` is filled stage by stage, also when one fails.
    ///
    /// # Errors
    /// [`Failure`] with the stage and the cause; nothing that looks like a result is left behind.
    pub fn process(
        &mut self,
        input: &Path,
        output: &Path,
        taken: &mut Taken,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        let read = self.workspace.read(input, &mut self.image);
        taken.read_s = begun.elapsed().as_secs_f64();
        let read = read.map_err(|error| failure(Stage::Read, &error))?;
        taken.bytes_in = read.bytes_in;
        taken.voxels = self.image.volume.len() as u64;
        self.warn_of_header(input);

        let begun = Instant::now();
        let filtered = filter::apply(
            &self.job.filter,
            &self.job.output,
            &mut self.image.volume,
            &mut self.scratch,
        );
        taken.filter_s = begun.elapsed().as_secs_f64();
        filtered.map_err(|error| Failure {
            stage: Stage::Filter,
            error: format!("{}: {error}", input.display()),
        })?;

        let begun = Instant::now();
        let written = self.write(output);
        taken.write_s = begun.elapsed().as_secs_f64();
        taken.bytes_out = written?;
        Ok(())
    }

    fn write(&mut self, output: &Path) -> Result<u64, Failure> {
        let folder = output.parent().unwrap_or(Path::new(""));
        if self.folder_made != folder {
            std::fs::create_dir_all(folder).map_err(|error| Failure {
                stage: Stage::Write,
                error: format!("{}: the folder cannot be made: {error}", folder.display()),
            })?;
            self.folder_made = folder.to_owned();
        }
        let options = WriteOptions {
            sync: self.job.sync,
        };
        let written = self.workspace.write(output, &self.image, &options);
        written
            .map(|written| written.bytes_out)
            .map_err(|error| failure(Stage::Write, &error))
    }

    /// Says what is odd in a header and was decided one way. Two voxel sizes matter only where one of them is used.
    fn warn_of_header(&self, input: &Path) {
        if self.image.header.extensions_void() {
            tracing::warn!(
                "{}: its header extensions overrun their section, so none of them is kept",
                printable(&input.display().to_string())
            );
        }
        let Filter::Gaussian(gaussian) = &self.job.filter;
        if gaussian.fwhm.is_none() {
            return;
        }
        if let Some(sizes) = self.image.header.voxel_size_disagreement() {
            tracing::warn!(
                "{}: voxels are {:?} mm by pixdim but {:?} mm by the affine; --fwhm goes by the affine",
                printable(&input.display().to_string()),
                sizes.pixdim_mm,
                sizes.affine_mm
            );
        }
    }
}

fn failure(stage: Stage, error: &dyn std::error::Error) -> Failure {
    Failure {
        stage,
        error: error.to_string(),
    }
}
