//! Upsamples components row by row, as libjpeg-turbo does: with triangle filters ("fancy upsampling") for half the
//! columns, half the rows or both, else by repetition.

/// How a component is upsampled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Upsampling {
    /// Not at all.
    #[default]
    None,
    /// Each sample is repeated for this many columns and rows.
    Repeat { columns: usize, rows: usize },
    /// Doubles the columns, with weights 3 : 1.
    Columns,
    /// Doubles the rows, with weights 3 : 1.
    Rows,
    /// Doubles both.
    Both,
}

impl Upsampling {
    /// The upsampling for sampling factors `own` if the largest factors are `largest` (columns, rows) and the component
    /// is `width` samples wide. `None` if the factors do not divide.
    pub(super) fn of(own: (usize, usize), largest: (usize, usize), width: usize) -> Option<Self> {
        if !largest.0.is_multiple_of(own.0) || !largest.1.is_multiple_of(own.1) {
            return None;
        }
        Some(match (largest.0 / own.0, largest.1 / own.1) {
            (1, 1) => Upsampling::None,
            (2, 1) if width > 2 => Upsampling::Columns,
            (1, 2) => Upsampling::Rows,
            (2, 2) if width > 2 => Upsampling::Both,
            (columns, rows) => Upsampling::Repeat { columns, rows },
        })
    }
}

/// The last rows of samples of a component, as a ring buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plane<'a> {
    pub(super) samples: &'a [u8],
    /// Bytes from row to row; a multiple of 8.
    pub(super) stride: usize,
    /// Columns and rows of the component within the image.
    pub(super) width: usize,
    pub(super) height: usize,
}

impl<'a> Plane<'a> {
    #[inline(always)]
    fn row(&self, row: usize) -> &'a [u8] {
        let start = row * self.stride % self.samples.len();
        &self.samples[start..start + self.width]
    }

    /// Row `y` of the image for this component: borrowed, or computed in `out`, which has room for it. `sums` is
    /// scratch memory.
    #[inline(always)]
    pub(super) fn upsampled<'b>(&self, how: Upsampling, y: usize, out: &'b mut [u8], sums: &mut [u16]) -> &'b [u8]
    where
        'a: 'b,
    {
        match how {
            Upsampling::None => return self.row(y),
            Upsampling::Repeat { columns, rows } => {
                for (samples, sample) in out.chunks_mut(columns).zip(self.row(y / rows)) {
                    samples.fill(*sample);
                }
            }
            Upsampling::Columns => double_columns(self.row(y), out),
            Upsampling::Rows => {
                let (near, far) = self.neighbours(y);
                let bias = 1 + (y as u16 & 1);
                for ((sample, near), far) in out.iter_mut().zip(near).zip(far) {
                    *sample = ((u16::from(*near) * 3 + u16::from(*far) + bias) >> 2) as u8;
                }
            }
            Upsampling::Both => {
                let (near, far) = self.neighbours(y);
                for ((sum, near), far) in sums.iter_mut().zip(near).zip(far) {
                    *sum = u16::from(*near) * 3 + u16::from(*far);
                }
                double_sums(&sums[..self.width], out);
            }
        }
        out
    }

    /// The two rows of samples nearest to row `y` of an image with twice the rows, the nearer one first. At the edge,
    /// both are the same.
    fn neighbours(&self, y: usize) -> (&'a [u8], &'a [u8]) {
        let row = y / 2;
        let other = if y.is_multiple_of(2) { row.saturating_sub(1) } else { (row + 1).min(self.height - 1) };
        (self.row(row), self.row(other))
    }
}

/// Doubles the columns of a row of at least two samples.
fn double_columns(row: &[u8], out: &mut [u8]) {
    let count = row.len();
    let out = &mut out[..count * 2];
    let wide = |sample: u8| u16::from(sample);
    out[0] = row[0];
    out[1] = ((wide(row[0]) * 3 + wide(row[1]) + 2) >> 2) as u8;
    let inner = &mut out[2..count * 2 - 2];
    for (((pair, left), middle), right) in
        inner.as_chunks_mut::<2>().0.iter_mut().zip(row).zip(&row[1..]).zip(&row[2..])
    {
        let middle = wide(*middle) * 3;
        *pair = [((middle + wide(*left) + 1) >> 2) as u8, ((middle + wide(*right) + 2) >> 2) as u8];
    }
    out[count * 2 - 2] = ((wide(row[count - 1]) * 3 + wide(row[count - 2]) + 1) >> 2) as u8;
    out[count * 2 - 1] = row[count - 1];
}

/// As [`double_columns`], for sums of two rows weighted 3 : 1.
fn double_sums(row: &[u16], out: &mut [u8]) {
    let count = row.len();
    let out = &mut out[..count * 2];
    out[0] = ((row[0] * 4 + 8) >> 4) as u8;
    out[1] = ((row[0] * 3 + row[1] + 7) >> 4) as u8;
    let inner = &mut out[2..count * 2 - 2];
    for (((pair, left), middle), right) in
        inner.as_chunks_mut::<2>().0.iter_mut().zip(row).zip(&row[1..]).zip(&row[2..])
    {
        let middle = middle * 3;
        *pair = [((middle + left + 8) >> 4) as u8, ((middle + right + 7) >> 4) as u8];
    }
    out[count * 2 - 2] = ((row[count - 1] * 3 + row[count - 2] + 8) >> 4) as u8;
    out[count * 2 - 1] = ((row[count - 1] * 4 + 7) >> 4) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_decide_the_filter() {
        let check = |own, largest, width, expected| {
            assert_eq!(Upsampling::of(own, largest, width), expected, "{own:?} of {largest:?}");
        };
        check((1, 1), (1, 1), 9, Some(Upsampling::None));
        check((1, 1), (2, 1), 3, Some(Upsampling::Columns));
        check((1, 1), (2, 1), 2, Some(Upsampling::Repeat { columns: 2, rows: 1 }));
        check((1, 1), (1, 2), 1, Some(Upsampling::Rows));
        check((1, 1), (2, 2), 3, Some(Upsampling::Both));
        check((1, 1), (2, 2), 2, Some(Upsampling::Repeat { columns: 2, rows: 2 }));
        check((2, 1), (4, 2), 3, Some(Upsampling::Both));
        check((1, 1), (4, 1), 9, Some(Upsampling::Repeat { columns: 4, rows: 1 }));
        check((1, 1), (4, 2), 9, Some(Upsampling::Repeat { columns: 4, rows: 2 }));
        check((2, 2), (3, 2), 9, None);
        check((2, 2), (2, 3), 9, None);
    }
}
