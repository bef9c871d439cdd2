//! Phantom: deterministic brain-like test images with Rician noise.
//!
//! A head is nested ellipsoids, drawn from the outside in: scalp, skull, cerebrospinal fluid, a folded grey
//! ribbon, white matter, deep nuclei, ventricles. Intensities follow a T1-weighted contrast with a smooth
//! bias field. The noise is that of a magnitude image: √((s + n₁)² + n₂²) with independent normal n₁ and n₂,
//! so the background is Rayleigh noise, not 0.

use ndarray::{ArrayViewMut3, Ix3};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use crate::volume::{Datatype, Volume, VoxelType};

/// A series of synthetic heads. Image `index` of a series depends on the fields here and on `index` alone.
///
/// All arithmetic is IEEE 754 addition, multiplication, division and square root, which every machine rounds
/// in the same way. The one exception is inside the normal distribution, whose rejection test and tail (one
/// draw in 3,700) take the C library's `exp` and `ln`; magnitudes are rounded to single precision, which
/// hides a last-bit difference between such libraries.
#[derive(Clone, Debug, PartialEq)]
pub struct Phantom {
    /// Voxels along x, y and z. The head fills the field of view, whatever its proportions.
    pub shape: [usize; 3],
    /// Distance between voxel centres, in mm. It is stored in the volume and does not change voxels.
    pub voxel_size_mm: [f64; 3],
    /// The type of a voxel; see [`white_matter`] for the range of intensities.
    pub datatype: Datatype,
    /// Standard deviation of the noise in both channels, as a fraction of white matter's intensity. 0 means
    /// no noise.
    pub noise: f64,
    /// A different seed gives a different series.
    pub seed: u64,
}

impl Default for Phantom {
    /// The images of `niimpi synth` without options: 91×109×91 voxels of 2 mm, `uint8`, 5 % noise.
    fn default() -> Phantom {
        Phantom {
            shape: [91, 109, 91],
            voxel_size_mm: [2.0; 3],
            datatype: Datatype::Uint8,
            noise: 0.05,
            seed: 1,
        }
    }
}

/// Intensity of white matter, before the bias field, in voxels of `datatype`: high enough for fine steps, low
/// enough that neither fat, nor the bias field, nor noise of 5 % reaches the end of the type's range.
pub fn white_matter(datatype: Datatype) -> f64 {
    match datatype {
        Datatype::Uint8 => 160.0,
        Datatype::Int8 => 80.0,
        _ => 1000.0,
    }
}

impl Phantom {
    /// Fills `volume` with image `index`: shape, voxel size, datatype and voxels, no scaling. Its memory is
    /// reused.
    pub fn fill(&self, index: u64, volume: &mut Volume) {
        volume.shape.clear();
        volume.shape.extend_from_slice(&self.shape);
        volume.voxel_size_mm = self.voxel_size_mm;
        volume.datatype = self.datatype;
        volume.scaling = None;
        volume.voxels.resize_for_overwrite(self.size_bytes());

        // Intensities are 0 or more, so adding a half and truncating rounds; `as` saturates.
        macro_rules! fill {
            ($type:ty, $half:expr) => {
                self.fill_voxels(index, array(volume), |intensity| {
                    (intensity + $half) as $type
                })
            };
        }
        match self.datatype {
            Datatype::Uint8 => fill!(u8, 0.5),
            Datatype::Int8 => fill!(i8, 0.5),
            Datatype::Uint16 => fill!(u16, 0.5),
            Datatype::Int16 => fill!(i16, 0.5),
            Datatype::Uint32 => fill!(u32, 0.5),
            Datatype::Int32 => fill!(i32, 0.5),
            Datatype::Uint64 => fill!(u64, 0.5),
            Datatype::Int64 => fill!(i64, 0.5),
            Datatype::Float32 => fill!(f32, 0.0),
            Datatype::Float64 => fill!(f64, 0.0),
        }
    }

    /// Bytes of an image's voxels.
    pub fn size_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.datatype.size_bytes()
    }

    fn fill_voxels<T: VoxelType>(
        &self,
        index: u64,
        voxels: ArrayViewMut3<'_, T>,
        from_intensity: impl Fn(f32) -> T,
    ) {
        let mut rng = self.rng(index);
        let head = Head::new(self.shape, &mut rng);
        let scale = white_matter(self.datatype);
        let sigma = self.noise * scale;

        let mut signal = vec![0.0; self.shape[0]];
        // In memory order, which is also the order of the random numbers: rows of x, along y, then along z.
        for (z, mut slice) in voxels.reversed_axes().outer_iter_mut().enumerate() {
            for (y, mut row) in slice.outer_iter_mut().enumerate() {
                head.draw_row(y, z, &mut signal);
                if sigma == 0.0 {
                    for (voxel, &s) in row.iter_mut().zip(&signal) {
                        *voxel = from_intensity((s * scale) as f32);
                    }
                } else {
                    for (voxel, &s) in row.iter_mut().zip(&signal) {
                        let real = s * scale + sigma * normal(&mut rng);
                        let imaginary = sigma * normal(&mut rng);
                        let magnitude = (real * real + imaginary * imaginary).sqrt();
                        *voxel = from_intensity(magnitude as f32);
                    }
                }
            }
        }
    }

    /// The image's own stream of random numbers.
    fn rng(&self, index: u64) -> ChaCha8Rng {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&index.to_le_bytes());
        ChaCha8Rng::from_seed(seed)
    }
}

/// The voxels by x, y and z of a volume whose shape, type and buffer were just set.
fn array<T: VoxelType>(volume: &mut Volume) -> ArrayViewMut3<'_, T> {
    let view = volume.view_mut().expect("the volume was given this type");
    view.into_dimensionality::<Ix3>()
        .expect("a phantom has three axes")
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

/// A number between −1 and 1, evenly distributed.
fn symmetric(rng: &mut ChaCha8Rng) -> f64 {
    let whole = (rng.next_u64() >> 11) as f64;
    whole * (2.0 / (1u64 << 53) as f64) - 1.0
}

/// Intensities of tissues relative to white matter.
mod tissue {
    pub const FAT: f64 = 1.1;
    pub const BONE: f64 = 0.12;
    pub const FLUID: f64 = 0.28;
    pub const GREY: f64 = 0.7;
    pub const WHITE: f64 = 1.0;
    pub const NUCLEUS: f64 = 0.8;
}

/// One person's head without noise. Coordinates run from −1 to 1 over the field of view: x to the right, y to
/// the front, z up.
struct Head {
    shape: [usize; 3],
    /// Scalp, skull, inside of the skull: each drawn over the one before.
    shells: [(Ellipsoid, f64); 3],
    brain: Ellipsoid,
    /// Nuclei and ventricles, drawn over the brain.
    deep: [(Ellipsoid, f64); 4],
    /// Folds of the cortex: waves along each axis whose product moves the borders of the grey ribbon.
    folds: [Vec<f64>; 3],
    /// The smooth variation of intensity: one factor for each coordinate on each axis.
    bias: [Vec<f64>; 3],
}

impl Head {
    fn new(shape: [usize; 3], rng: &mut ChaCha8Rng) -> Head {
        // Vary size and proportions by up to 3 %, position by 2 %, and rotation about z by 4°, as between
        // people.
        let stretch: [f64; 3] = std::array::from_fn(|_| 1.0 + 0.03 * symmetric(rng));
        let shift: [f64; 3] = std::array::from_fn(|_| 0.02 * symmetric(rng));
        let tilt = Rotation::from_half_tangent(0.035 * symmetric(rng));
        let ventricle_size = 1.0 + 0.25 * symmetric(rng);
        let phases: [f64; 3] = std::array::from_fn(|_| symmetric(rng));
        let slopes: [f64; 3] = std::array::from_fn(|_| 0.06 * symmetric(rng));

        let place = |centre: [f64; 3], radii: [f64; 3]| {
            let [x, y] = tilt.turn(centre[0], centre[1]);
            let turned = [x, y, centre[2]];
            Ellipsoid::new(
                std::array::from_fn(|axis| turned[axis] * stretch[axis] + shift[axis]),
                std::array::from_fn(|axis| radii[axis] * stretch[axis]),
                tilt,
            )
        };
        let v = ventricle_size;
        Head {
            shape,
            shells: [
                (place([0.0, 0.0, -0.04], [0.84, 0.90, 0.88]), tissue::FAT),
                (place([0.0, 0.0, -0.04], [0.78, 0.84, 0.82]), tissue::BONE),
                (place([0.0, 0.0, -0.03], [0.72, 0.78, 0.75]), tissue::FLUID),
            ],
            brain: place([0.0, 0.0, -0.02], [0.69, 0.75, 0.71]),
            deep: [
                (place([-0.22, 0.04, -0.06], [0.10, 0.20, 0.12]), tissue::NUCLEUS),
                (place([0.22, 0.04, -0.06], [0.10, 0.20, 0.12]), tissue::NUCLEUS),
                (
                    place([-0.10, 0.02, 0.08], [0.06 * v, 0.28, 0.10 * v]),
                    tissue::FLUID,
                ),
                (
                    place([0.10, 0.02, 0.08], [0.06 * v, 0.28, 0.10 * v]),
                    tissue::FLUID,
                ),
            ],
            folds: std::array::from_fn(|axis| {
                let waves = [5.0, 6.0, 5.0][axis];
                (0..shape[axis])
                    .map(|i| wave(waves * centre_of(i, shape[axis]) + phases[axis]))
                    .collect()
            }),
            bias: std::array::from_fn(|axis| {
                (0..shape[axis])
                    .map(|i| {
                        let x = centre_of(i, shape[axis]);
                        1.0 + slopes[axis] * x - 0.04 * x * x
                    })
                    .collect()
            }),
        }
    }

    /// Intensities of the row of voxels at `y`, `z`, in units of white matter's.
    fn draw_row(&self, y: usize, z: usize, row: &mut [f64]) {
        let y_centre = centre_of(y, self.shape[1]);
        let z_centre = centre_of(z, self.shape[2]);
        let nx = row.len();
        row.fill(0.0);
        for (shell, intensity) in &self.shells {
            row[shell.span(y_centre, z_centre, nx)].fill(*intensity);
        }

        let fold = 0.2 * self.folds[1][y] * self.folds[2][z];
        for x in self.brain.span(y_centre, z_centre, nx) {
            let depth = 1.0 - self.brain.norm(centre_of(x, nx), y_centre, z_centre) + fold * self.folds[0][x];
            // Fluid in the valleys of the folds, a ribbon of grey matter, white matter below.
            if depth > 0.26 {
                row[x] = tissue::WHITE;
            } else if depth > 0.03 {
                row[x] = tissue::GREY;
            }
        }
        for (part, intensity) in &self.deep {
            row[part.span(y_centre, z_centre, nx)].fill(*intensity);
        }

        let bias = self.bias[1][y] * self.bias[2][z];
        for (voxel, bias_x) in row.iter_mut().zip(&self.bias[0]) {
            *voxel *= bias * bias_x;
        }
    }
}

/// The coordinate, between −1 and 1, of the centre of voxel `i` of `n`.
fn centre_of(i: usize, n: usize) -> f64 {
    (2 * i + 1) as f64 / n as f64 - 1.0
}

/// A wave of period 2 and height 1 made of parabolas: like a sine, and the same on every machine.
fn wave(x: f64) -> f64 {
    let phase = x - 2.0 * (x / 2.0).floor();
    if phase < 1.0 {
        4.0 * phase * (1.0 - phase)
    } else {
        -4.0 * (phase - 1.0) * (2.0 - phase)
    }
}

/// A turn in the x-y plane.
#[derive(Clone, Copy)]
struct Rotation {
    cos: f64,
    sin: f64,
}

impl Rotation {
    /// The turn by the angle whose half has the tangent `t`: cosine and sine are then fractions.
    fn from_half_tangent(t: f64) -> Rotation {
        Rotation {
            cos: (1.0 - t * t) / (1.0 + t * t),
            sin: 2.0 * t / (1.0 + t * t),
        }
    }

    fn turn(self, x: f64, y: f64) -> [f64; 2] {
        [self.cos * x - self.sin * y, self.sin * x + self.cos * y]
    }
}

/// An ellipsoid whose z axis is upright: (a·dx² + 2·b·dx·dy + c·dy²) + dz²·d ≤ 1.
struct Ellipsoid {
    centre: [f64; 3],
    a: f64,
    b: f64,
    c: f64,
    d: f64,
}

impl Ellipsoid {
    fn new(centre: [f64; 3], radii: [f64; 3], turned: Rotation) -> Ellipsoid {
        let [px, py, pz] = radii.map(|radius| 1.0 / (radius * radius));
        let Rotation { cos, sin } = turned;
        Ellipsoid {
            centre,
            a: cos * cos * px + sin * sin * py,
            b: cos * sin * (px - py),
            c: sin * sin * px + cos * cos * py,
            d: pz,
        }
    }

    /// Distance from the centre as a fraction of the distance to the surface: 1 on it.
    fn norm(&self, x: f64, y: f64, z: f64) -> f64 {
        let [dx, dy, dz] = [x - self.centre[0], y - self.centre[1], z - self.centre[2]];
        (self.a * dx * dx + 2.0 * self.b * dx * dy + self.c * dy * dy + self.d * dz * dz).sqrt()
    }

    /// The voxels of a row of `n` at `y`, `z` whose centres are inside.
    fn span(&self, y: f64, z: f64, n: usize) -> std::ops::Range<usize> {
        let [dy, dz] = [y - self.centre[1], z - self.centre[2]];
        let half_b = self.b * dy;
        let discriminant = half_b * half_b - self.a * (self.c * dy * dy + self.d * dz * dz - 1.0);
        if discriminant.is_nan() || discriminant <= 0.0 {
            return 0..0;
        }
        let middle = self.centre[0] - half_b / self.a;
        let reach = discriminant.sqrt() / self.a;
        let index_of = |x: f64| ((x + 1.0) * n as f64 - 1.0) / 2.0;
        let first = index_of(middle - reach).ceil().clamp(0.0, n as f64) as usize;
        let end = (index_of(middle + reach).floor() + 1.0).clamp(0.0, n as f64) as usize;
        first..end.max(first)
    }
}

#[cfg(test)]
mod tests;
