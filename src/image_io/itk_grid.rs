//! The grid of an image as ITK's NIfTI reader sees it, for filters that reproduce ITK's programs.

use super::affine::GridFields;
use super::header::Header;
use crate::volume::Grid;

/// An sform whose columns differ from pixdim by more than this part is not one that ITK prefers.
const SCALE_TOLERANCE: f64 = 1e-4;

/// Nor is one whose columns, with length 1, have products beyond this.
const ORTHOGONAL_TOLERANCE: f64 = 1e-4;

type Matrix = [[f64; 3]; 3];

impl Header {
    /// The grid as ITK 5.4 reads it: spacing by pixdim; orientation and origin by the sform if its code is 1
    /// or there is no qform, else by the qform. An sform that is sheared or whose scales are not pixdim's
    /// counts only where there is no qform. Single precision, as in ITK's NIfTI library.
    pub(crate) fn itk_grid(&self) -> Grid {
        let fields = self.grid_fields();
        let mm_per_unit = self.length_unit().mm();
        let spacing: [f64; 3] = std::array::from_fn(|axis| {
            let size = fields.pixdim[axis + 1].abs();
            let size = if size.is_finite() && size > 0.0 { size } else { 1.0 };
            size * mm_per_unit
        });
        let sform: Matrix = fields.sform.map(|row| [row[0], row[1], row[2]]);
        let by_sform = fields.sform_code > 0
            && (fields.qform_code <= 0 || (fields.sform_code == 1 && is_plain(&sform, &fields.pixdim)));
        let (matrix, offset) = if by_sform {
            (sform, fields.sform.map(|row| row[3]))
        } else if fields.qform_code > 0 {
            (qform(&fields), fields.offset)
        } else {
            return Grid::of_spacing(spacing);
        };
        let lps = |row: usize, value: f64| if row < 2 { -value } else { value };
        let single = |value: f64| f64::from(value as f32);
        let columns = column_lengths(&matrix.map(|row| row.map(single)));
        let direction: Matrix = std::array::from_fn(|row| {
            std::array::from_fn(|axis| lps(row, single(matrix[row][axis])) / columns[axis])
        });
        let origin = std::array::from_fn(|row| lps(row, single(offset[row]) * mm_per_unit));
        let grid = Grid {
            spacing_mm: spacing,
            origin_mm: origin,
            direction,
        };
        match grid.is_finite() {
            true => grid,
            false => Grid::of_spacing(spacing),
        }
    }
}

fn column_lengths(matrix: &Matrix) -> [f64; 3] {
    std::array::from_fn(|axis| {
        let column = matrix.map(|row| row[axis]);
        (column[0] * column[0] + column[1] * column[1] + column[2] * column[2]).sqrt()
    })
}

/// Whether the columns are orthogonal and as long as pixdim says.
fn is_plain(sform: &Matrix, pixdim: &[f64; 4]) -> bool {
    let lengths = column_lengths(sform);
    let scales = (0..3).all(|axis| (lengths[axis] - pixdim[axis + 1]).abs() <= SCALE_TOLERANCE);
    let product =
        |a: usize, b: usize| sform.iter().map(|row| row[a] * row[b]).sum::<f64>() / (lengths[a] * lengths[b]);
    scales
        && [(0, 1), (0, 2), (1, 2)]
            .iter()
            .all(|&(a, b)| product(a, b).abs() <= ORTHOGONAL_TOLERANCE)
}

/// The matrix of the quaternion, as the NIfTI-1 standard gives it.
fn qform(fields: &GridFields) -> Matrix {
    let [mut b, mut c, mut d] = fields.quaternion;
    let square = b * b + c * c + d * d;
    let mut a = 1.0 - square;
    if a < 1e-7 {
        let length = 1.0 / square.sqrt();
        (a, b, c, d) = (0.0, b * length, c * length, d * length);
    } else {
        a = a.sqrt();
    }
    let [factor, x, y, z] = fields.pixdim;
    let size = |size: f64| if size > 0.0 { size } else { 1.0 };
    let (x, y, z) = (size(x), size(y), size(z) * if factor < 0.0 { -1.0 } else { 1.0 });
    [
        [
            (a * a + b * b - c * c - d * d) * x,
            2.0 * (b * c - a * d) * y,
            2.0 * (b * d + a * c) * z,
        ],
        [
            2.0 * (b * c + a * d) * x,
            (a * a + c * c - b * b - d * d) * y,
            2.0 * (c * d - a * b) * z,
        ],
        [
            2.0 * (b * d - a * c) * x,
            2.0 * (c * d + a * b) * y,
            (a * a + d * d - c * c - b * b) * z,
        ],
    ]
}
