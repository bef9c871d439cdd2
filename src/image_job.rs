//! One image's way: read → filter → write, each stage timed. Knows nothing of ranks.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::filter::gaussian::PerAxis;
use crate::filter::nonfinite::{self, NonFinite, NonFiniteScratch};
use crate::filter::{self, Filter, OutputSpec, Rounding};
use crate::image_io::{
    Cause, CompressionLevel, Image, ImageError, Workspace, WriteOptions, WriteSummary,
};
use crate::report::{FilterDescription, Stage, printable};
use crate::volume::Datatype;

/// What is done to every image.
#[derive(Clone, Debug)]
pub struct ImageJob {
    /// The filter.
    pub filter: Filter,
    /// The results' type.
    pub output: OutputSpec,
    /// What becomes of voxels that are NaN or infinite.
    pub nan: NonFinite,
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

    /// Everything that shapes a result's bytes besides its input: two jobs with equal options write equal results.
    pub fn options(&self) -> serde_json::Value {
        let mut options = serde_json::json!({
            "filter": self.filter,
            "output": self.output,
            "compression": self.compression.get(),
        });
        if self.nan != NonFinite::default() {
            options["nan"] = self.nan.name().into();
        }
        // A number that was written and read may differ in its last digit from one that was not: all are.
        serde_json::from_str(&options.to_string()).unwrap_or(options)
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
            nan: self.nan.name().to_owned(),
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
    /// Of these, NaN or infinite.
    pub nonfinite_voxels: u64,
    /// The type of a voxel in the input file; `None` when it was not read.
    pub datatype: Option<Datatype>,
    /// Whether the voxels have a slope or an intercept that counts.
    pub scaled: bool,
    /// Bytes of the input file.
    pub bytes_in: u64,
    /// When the input was last changed, nanoseconds since 1970; `None` when it was not read.
    pub input_mtime_ns: Option<i64>,
    /// Bytes of the result's file.
    pub bytes_out: u64,
    /// The result's file; `None` when it was not written.
    pub written: Option<WriteSummary>,
}

/// Where and why an image was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The stage.
    pub stage: Stage,
    /// The cause with the path, in one sentence.
    pub error: String,
    /// What the cause means for the other images.
    pub kind: FailureKind,
}

/// What a failure means for the other images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureKind {
    /// It is this image's alone.
    #[default]
    Own,
    /// The disk is full or the quota used up: no other will fare better.
    NoSpace,
    /// It needs so many bytes, more than it may take beside others.
    NeedsMemory {
        /// All that it needs.
        needed_bytes: u64,
    },
}

/// A worker's own buffers, reused from image to image.
pub struct ImageWorker<'a> {
    job: &'a ImageJob,
    workspace: Workspace,
    image: Image,
    scratch: filter::Scratch,
    non_finite: NonFiniteScratch,
    folder_made: PathBuf,
}

impl<'a> ImageWorker<'a> {
    /// A worker with empty buffers; they grow with the first image.
    pub fn new(job: &'a ImageJob) -> Self {
        let mut workspace = Workspace::new(job.compression);
        let (output, nan) = (job.output, job.nan);
        workspace.set_memory_need(move |header| {
            let (shape, datatype) = (header.shape(), header.datatype());
            let each = nonfinite::memory_bytes_per_voxel(nan, datatype);
            let more = shape
                .iter()
                .fold(each, |all, &length| all.saturating_mul(length as u64));
            output
                .memory_bytes(shape, datatype, header.scaling().is_some())
                .saturating_add(more)
        });
        Self {
            job,
            workspace,
            image: Image::default(),
            scratch: filter::Scratch::default(),
            non_finite: NonFiniteScratch::default(),
            folder_made: PathBuf::new(),
        }
    }

    /// Refuses images that need more memory than this, before it is taken.
    pub fn set_memory_limit(&mut self, limit_bytes: Option<u64>) {
        self.workspace.set_memory_limit(limit_bytes);
    }

    /// Gives the memory of the last images back; the next one takes its own anew.
    pub fn release_memory(&mut self) {
        self.image = Image::default();
        self.scratch = filter::Scratch::default();
        self.non_finite = NonFiniteScratch::default();
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
        taken.input_mtime_ns = Some(read.mtime_ns);
        taken.voxels = self.image.volume.len() as u64;
        taken.datatype = Some(self.image.volume.datatype);
        taken.scaled = self.image.volume.scaling.is_some();
        self.warn_of_header(input);

        let begun = Instant::now();
        let filtered = nonfinite::apply_with(
            self.job.nan,
            &self.job.filter,
            &self.job.output,
            &mut self.image.volume,
            &mut self.scratch,
            &mut self.non_finite,
        );
        taken.filter_s = begun.elapsed().as_secs_f64();
        taken.nonfinite_voxels = filtered.map_err(|error| Failure {
            stage: Stage::Filter,
            error: format!("{}: {error}", input.display()),
            kind: FailureKind::Own,
        })?;

        let begun = Instant::now();
        let written = self.write(output);
        taken.write_s = begun.elapsed().as_secs_f64();
        let written = written?;
        taken.bytes_out = written.bytes_out;
        taken.written = Some(written);
        Ok(())
    }

    fn write(&mut self, output: &Path) -> Result<WriteSummary, Failure> {
        let folder = output.parent().unwrap_or(Path::new(""));
        if self.folder_made != folder {
            std::fs::create_dir_all(folder).map_err(|error| Failure {
                stage: Stage::Write,
                error: format!("{}: the folder cannot be made: {error}", folder.display()),
                kind: match error.kind() {
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FailureKind::NoSpace,
                    _ => FailureKind::Own,
                },
            })?;
            self.folder_made = folder.to_owned();
        }
        let options = WriteOptions {
            sync: self.job.sync,
        };
        let written = self.workspace.write(output, &self.image, &options);
        written.map_err(|error| failure(Stage::Write, &error))
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

fn failure(stage: Stage, error: &ImageError) -> Failure {
    Failure {
        stage,
        error: error.to_string(),
        kind: match error.cause {
            Cause::NoSpace { .. } => FailureKind::NoSpace,
            Cause::OverMemoryLimit { needed, .. } => FailureKind::NeedsMemory {
                needed_bytes: needed,
            },
            _ => FailureKind::Own,
        },
    }
}
