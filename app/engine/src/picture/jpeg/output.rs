//! Upsamples components and writes rows of RGB.

use super::color::ColorSpace;
use super::frame::{Frame, MAX_COMPONENTS};
use super::idct::Block;
use super::upsample::Plane;
use crate::picture::Picture;

/// The samples of the last two rows of MCUs, and the quantisation steps.
#[derive(Debug)]
pub(super) struct Planes {
    samples: [Vec<u8>; MAX_COMPONENTS],
    strides: [usize; MAX_COMPONENTS],
    /// Zeros for a component without a scan.
    pub(super) steps: [Block; MAX_COMPONENTS],
}

impl Default for Planes {
    fn default() -> Self {
        Planes { samples: Default::default(), strides: [0; MAX_COMPONENTS], steps: [[0; 64]; MAX_COMPONENTS] }
    }
}

impl Planes {
    /// Prepares for an image.
    pub(super) fn prepare(&mut self, frame: &Frame) {
        self.steps = [[0; 64]; MAX_COMPONENTS];
        for ((samples, stride), component) in
            self.samples.iter_mut().zip(&mut self.strides).zip(frame.components.iter())
        {
            *stride = component.stride_blocks * 8;
            samples.resize(*stride * component.rows * 8 * 2, 0);
        }
    }

    /// The steps of a block, the memory of its samples, and the stride of that memory.
    #[inline(always)]
    pub(super) fn at(&mut self, component: usize, row: usize, column: usize) -> (&Block, &mut [u8], usize) {
        let (samples, stride) = (&mut self.samples[component], self.strides[component]);
        let start = row * 8 * stride % samples.len() + column * 8;
        (&self.steps[component], &mut samples[start..start + 7 * stride + 8], stride)
    }
}

/// Scratch memory for rows of an image.
#[derive(Debug, Default)]
pub(super) struct Output {
    rows: [Vec<u8>; MAX_COMPONENTS],
    sums: Vec<u16>,
}

impl Output {
    /// Prepares for an image and resizes its pixels.
    pub(super) fn prepare(&mut self, frame: &Frame, picture: &mut Picture) {
        (picture.width, picture.height) = (frame.width, frame.height);
        let bytes = frame.width * frame.height * 3;
        // A buffer that grows by itself would take more memory than needed, and keep the old one until it is copied.
        if picture.rgb.capacity() < bytes {
            picture.rgb = Vec::new();
            picture.rgb.reserve_exact(bytes);
        }
        picture.rgb.resize(bytes, 0);
        let width = frame.mcus_per_row() * frame.columns * 8;
        for row in &mut self.rows[..frame.components.len()] {
            row.resize(width, 0);
        }
        self.sums.resize(width, 0);
    }

    /// Writes the rows of pixels that the row of MCUs just decoded completes: those left over from the previous row,
    /// and all of its own but the last few, which are interpolated with the next row.
    pub(super) fn write(
        &mut self,
        planes: &Planes,
        mcu_row: usize,
        frame: &Frame,
        space: ColorSpace,
        picture: &mut Picture,
    ) {
        let ready = |mcu_rows: usize| {
            let is_whole = mcu_rows == frame.mcu_rows();
            if is_whole { frame.height } else { (mcu_rows * frame.rows * 8).saturating_sub(frame.rows) }
        };
        let (first, last) = (ready(mcu_row), ready(mcu_row + 1));
        let (Output { rows, sums }, row_bytes) = (self, frame.width * 3);
        for y in first..last {
            let mut sources: [&[u8]; MAX_COMPONENTS] = [&[]; MAX_COMPONENTS];
            for (number, ((source, row), component)) in
                sources.iter_mut().zip(rows.iter_mut()).zip(frame.components.iter()).enumerate()
            {
                let plane = Plane {
                    samples: &planes.samples[number],
                    stride: planes.strides[number],
                    width: component.width,
                    height: component.height,
                };
                *source = plane.upsampled(component.upsampling, y, row, sums);
            }
            space.convert(sources, &mut picture.rgb[y * row_bytes..(y + 1) * row_bytes]);
        }
    }
}
