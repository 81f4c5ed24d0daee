//! Means and mean products of what the linear layers of a tower read, on generated images and texts.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use ndarray::{ArrayView2, ArrayViewMut2};
use spotter_engine::bundle::{TowerKind, Weights};
use spotter_engine::tower::Layer;

use crate::assemble::Assembled;
use crate::compare::threads;
use crate::error::Error;
use crate::plan::Plans;
use crate::probes;
use crate::progress::Tick;

/// Memory limit for the products of one pass, in bytes. Towers whose products need more are run several times.
const PASS_BYTES_MAX: usize = 256 << 20;

/// Rows that are multiplied at once.
const ROWS: usize = 64;

/// What one linear layer reads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    /// Number of rows.
    pub(crate) rows: usize,
    /// Mean of each channel.
    pub(crate) mean: Vec<f32>,
    /// Mean products of two channels [width, width].
    pub(crate) products: Vec<f32>,
}

impl Moments {
    /// The moments of what is read if each channel is divided by its factor.
    pub(crate) fn divided_by(mut self, factors: &[f32]) -> Self {
        let width = self.mean.len();
        self.mean.iter_mut().zip(factors).for_each(|(mean, factor)| *mean /= factor);
        for (row, factor) in self.products.chunks_exact_mut(width.max(1)).zip(factors) {
            row.iter_mut().zip(factors).for_each(|(value, other)| *value /= factor * other);
        }
        self
    }

    /// The moments of these rows.
    #[cfg(test)]
    pub(crate) fn of(rows: &[Vec<f32>]) -> Self {
        let mut sums = Sums::new(rows[0].len());
        rows.iter().for_each(|row| sums.add(row));
        sums.moments()
    }
}

/// The moments of all linear layers of a tower, in an unnamed temporary file.
#[derive(Debug)]
pub(crate) struct TowerMoments {
    file: File,
    /// Names of the layers of each step, its width, rows, and place in the file.
    steps: Vec<(Vec<String>, usize, usize, u64)>,
}

impl PartialEq for TowerMoments {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl TowerMoments {
    /// The moments of what the layer called `name` reads; `None` if they are not known.
    pub(crate) fn of(&self, name: &str) -> io::Result<Option<Moments>> {
        let step = self.steps.iter().find(|(names, ..)| names.iter().any(|known| known == name));
        let Some(&(_, width, rows, place)) = step else { return Ok(None) };
        let mut bytes = vec![0; 4 * (width + width * width)];
        self.file.read_exact_at(&mut bytes, place)?;
        let mut mean: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let products = mean.split_off(width);
        Ok(Some(Moments { rows, mean, products }))
    }
}

/// Observes the towers of `float` that `plans` stores as int4. Of towers that do not run fused, nothing is known.
pub(crate) fn observe(
    float: &Assembled,
    plans: &Plans,
    scratch: &Path,
    tick: Tick<'_>,
) -> Result<[Option<TowerMoments>; 2], Error> {
    let wanted = |kind: TowerKind| plans.of(kind).weights == Weights::Int4;
    let [mut image, mut text] = [None, None];
    if wanted(TowerKind::Image) {
        let mut preprocessor = float.manifest.preprocessor()?;
        let tower = float.image_tower(&threads()?)?;
        let (images, mut pixels) = (probes::others(float.manifest.image_size()), Vec::new());
        let mut run = |take: &mut (dyn FnMut(&Layer, &[f32]) + Send)| {
            images.iter().try_for_each(|image| {
                tick();
                preprocessor.run(image, &mut pixels)?;
                tower.embed_showing(&pixels, take)?;
                Ok(())
            })
        };
        if tower.unfused().is_none() {
            image = Some(observed(&mut run, scratch)?);
        }
    }
    if wanted(TowerKind::Text) {
        let mut tower = float.text_tower(&threads()?)?;
        let fused = tower.unfused().is_none();
        let texts = probes::other_texts(float.manifest.tokenizer.max_length);
        let mut run = |take: &mut (dyn FnMut(&Layer, &[f32]) + Send)| {
            texts.iter().try_for_each(|text| {
                tick();
                tower.embed_showing(text, take)?;
                Ok(())
            })
        };
        if fused {
            text = Some(observed(&mut run, scratch)?);
        }
    }
    Ok([image, text])
}

type Run<'a> = dyn FnMut(&mut (dyn FnMut(&Layer, &[f32]) + Send)) -> Result<(), Error> + 'a;

/// Collects the moments of all steps of a tower that `run` runs on all inputs.
fn observed(run: &mut Run<'_>, scratch: &Path) -> Result<TowerMoments, Error> {
    let io = |source| Error::Io { path: scratch.to_owned(), source };
    let mut found = TowerMoments { file: tempfile::tempfile_in(scratch).map_err(io)?, steps: Vec::new() };
    let mut place = 0;
    loop {
        let mut pass: Vec<(Vec<String>, Sums)> = Vec::new();
        let (mut bytes, mut left_out) = (0, false);
        run(&mut |layer, row| {
            if let Some((_, sums)) = pass.iter_mut().find(|(names, _)| *names == layer.layers) {
                sums.add(row);
                return;
            }
            let size = 4 * row.len() * row.len();
            let known = found.steps.iter().any(|(names, ..)| *names == layer.layers);
            if known || layer.layers.is_empty() {
                return;
            }
            if bytes > 0 && bytes + size > PASS_BYTES_MAX {
                left_out = true;
                return;
            }
            bytes += size;
            let mut sums = Sums::new(row.len());
            sums.add(row);
            pass.push((layer.layers.clone(), sums));
        })?;
        for (names, sums) in pass {
            let moments = sums.moments();
            let values = moments.mean.iter().chain(&moments.products);
            let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
            found.file.write_all_at(&bytes, place).map_err(io)?;
            found.steps.push((names, moments.mean.len(), moments.rows, place));
            place += bytes.len() as u64;
        }
        if !left_out {
            return Ok(found);
        }
    }
}

/// Sums over the rows of one step.
struct Sums {
    width: usize,
    count: usize,
    sum: Vec<f64>,
    products: Vec<f32>,
    /// Rows that are not yet in `products`.
    waiting: Vec<f32>,
}

impl Sums {
    fn new(width: usize) -> Self {
        Self { width, count: 0, sum: vec![0.0; width], products: vec![0.0; width * width], waiting: Vec::new() }
    }

    fn add(&mut self, row: &[f32]) {
        self.count += 1;
        self.sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        self.waiting.extend_from_slice(row);
        if self.waiting.len() >= ROWS * self.width {
            self.multiply();
        }
    }

    fn multiply(&mut self) {
        let shape = (self.waiting.len() / self.width.max(1), self.width);
        let (Ok(rows), Ok(mut products)) = (
            ArrayView2::from_shape(shape, &self.waiting),
            ArrayViewMut2::from_shape((self.width, self.width), &mut self.products),
        ) else {
            return;
        };
        ndarray::linalg::general_mat_mul(1.0, &rows.t(), &rows, 1.0, &mut products);
        self.waiting.clear();
    }

    fn moments(mut self) -> Moments {
        self.multiply();
        let count = self.count.max(1) as f32;
        self.products.iter_mut().for_each(|value| *value /= count);
        let mean = self.sum.iter().map(|sum| (sum / f64::from(count)) as f32).collect();
        Moments { rows: self.count, mean, products: self.products }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_products_of_rows() {
        let rows: Vec<Vec<f32>> = (0..100).map(|i| vec![i as f32, (i % 2) as f32, 1.0]).collect();
        let found = Moments::of(&rows);
        assert_eq!((found.rows, &found.mean[..]), (100, &[49.5, 0.5, 1.0][..]));
        assert_eq!(found.products[0], 3283.5);
        assert_eq!(found.products[3..6], [25.0, 0.5, 0.5]);
        let divided = found.clone().divided_by(&[2.0, 1.0, 4.0]);
        assert_eq!(divided.mean, [24.75, 0.5, 0.25]);
        let expected: Vec<Vec<f32>> = rows.iter().map(|row| vec![row[0] / 2.0, row[1], row[2] / 4.0]).collect();
        assert_eq!(divided, Moments::of(&expected));
    }
}
