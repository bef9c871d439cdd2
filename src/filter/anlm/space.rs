//! Space: the matrices between indices of voxels and points in space.

use crate::volume::Grid;

pub(super) type Matrix = [[f64; 3]; 3];

/// Whether each row and each column has one number other than 0.
pub(super) fn is_aligned(matrix: &Matrix) -> bool {
    let one = |numbers: [f64; 3]| numbers.iter().filter(|&&number| number != 0.0).count() == 1;
    (0..3).all(|axis| one(matrix[axis]) && one(matrix.map(|row| row[axis])))
}

/// From indices of a grid to distances from its origin.
pub(super) fn scaled(grid: &Grid) -> Matrix {
    let row = |row: [f64; 3]| std::array::from_fn(|axis| row[axis] * grid.spacing_mm[axis]);
    grid.direction.map(row)
}

/// The inverse of a matrix, rounded once; `None` without one. The inverse of a matrix whose rows and columns
/// have one number each has the inverses of these.
pub(super) fn inverse(m: &Matrix) -> Option<Matrix> {
    let mut inverse = [[0.0; 3]; 3];
    if m.as_flattened().iter().filter(|&&number| number != 0.0).count() == 3 {
        for (axis, row_of_inverse) in inverse.iter_mut().enumerate() {
            for (row, number) in row_of_inverse.iter_mut().enumerate() {
                if m[row][axis] != 0.0 {
                    *number = 1.0 / m[row][axis];
                }
            }
        }
        let is_whole = inverse.iter().all(|row| row.iter().any(|&number| number != 0.0));
        return is_whole.then_some(inverse);
    }
    let cofactor = |row: usize, axis: usize| {
        let (a, b) = ((row + 1) % 3, (row + 2) % 3);
        let (c, d) = ((axis + 1) % 3, (axis + 2) % 3);
        m[a][c] * m[b][d] - m[a][d] * m[b][c]
    };
    let determinant: f64 = (0..3).map(|axis| m[0][axis] * cofactor(0, axis)).sum();
    if !determinant.is_normal() {
        return None;
    }
    for (axis, row_of_inverse) in inverse.iter_mut().enumerate() {
        for (row, number) in row_of_inverse.iter_mut().enumerate() {
            *number = cofactor(row, axis) / determinant;
        }
    }
    Some(inverse)
}
