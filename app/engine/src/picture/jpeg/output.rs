//! From samples of components to rows of RGB.

use super::color::ColorSpace;
use super::frame::{Frame, MAX_COMPONENTS};
use super::idct::Block;
use super::upsample::Plane;
use crate::picture::Picture;

/// The samples of the last two rows of MCUs, and the steps that they are dequantised with.
#[derive(Debug)]
pub(super) struct Planes {
    samples: [Vec<u8>; MAX_COMPONENTS],
    strides: [usize; MAX_COMPONENTS],
    /// Zeros for a component that no scan has.
    pub(super) steps: [Block; MAX_COMPONENTS],
}

impl Default for Planes {
    fn default() -> Self {
        Planes { samples: Default::default(), strides: [0; MAX_COMPONENTS], steps: [[0; 64]; MAX_COMPONENTS] }
    }
}

impl Planes {
    /// Makes room for an image.
    pub(super) fn prepare(&mut self, frame: &Frame) {
        self.steps = [[0; 64]; MAX_COMPONENTS];
        for ((samples, stride), component) in self.samples.iter_mut().zip(&mut self.strides).zip(&frame.components) {
            *stride = component.stride_blocks * 8;
            samples.resize(*stride * component.rows * 8 * 2, 0);
        }
    }

    /// The steps for a block, where its samples go, and the bytes from row to row.
    #[inline(always)]
    pub(super) fn at(&mut self, component: usize, row: usize, column: usize) -> (&Block, &mut [u8], usize) {
        let (samples, stride) = (&mut self.samples[component], self.strides[component]);
        let start = row * 8 * stride % samples.len() + column * 8;
        (&self.steps[component], &mut samples[start..start + 7 * stride + 8], stride)
    }
}

/// Scratch for rows of one image.
#[derive(Debug, Default)]
pub(super) struct Output {
    rows: [Vec<u8>; MAX_COMPONENTS],
    sums: Vec<u16>,
}

impl Output {
    /// Makes room for an image's pixels.
    pub(super) fn prepare(&mut self, frame: &Frame, picture: &mut Picture) {
        (picture.width, picture.height) = (frame.width, frame.height);
        let bytes = frame.width * frame.height * 3;
        // A buffer that grows by itself would take more than is needed, and the old one beside it.
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

    /// Writes the rows of pixels for which a row of MCUs, just decoded, was the last thing missing: all but the last few of
    /// it, which are interpolated with the next, and those left over from the row before.
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
                sources.iter_mut().zip(rows.iter_mut()).zip(&frame.components).enumerate()
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
