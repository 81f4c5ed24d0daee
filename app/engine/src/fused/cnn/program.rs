//! A convolutional tower as a list of steps over maps.

use std::ops::Range;
use std::sync::Arc;

use crate::fused::kernels::{Activation, PackedF32, PackedI8};

/// Index of a map.
pub(crate) type MapId = usize;

/// The shape of a map; a vector has one pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
}

impl Shape {
    /// A map of one pixel.
    pub(crate) fn vector(channels: usize) -> Self {
        Self { height: 1, width: 1, channels }
    }

    pub(crate) fn is_vector(self) -> bool {
        self.height == 1 && self.width == 1
    }

    /// Values of one row.
    pub(crate) fn row(self) -> usize {
        self.width * self.channels
    }
}

/// The pixels that a result depends on: result `(y, x)` on rows `y * stride - before ..` and columns alike. What lies
/// outside of the map is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: [usize; 2],
    pub(crate) before: [usize; 2],
}

impl Window {
    /// A single pixel.
    pub(crate) const POINT: Self = Self { kernel: [1, 1], stride: [1, 1], before: [0, 0] };

    pub(crate) fn is_point(self) -> bool {
        self == Self::POINT
    }

    /// The rows of a map of `height` rows that the results `rows` depend on.
    pub(crate) fn rows(self, rows: &Range<usize>, height: usize) -> Range<usize> {
        let end = ((rows.end.max(1) - 1) * self.stride[0] + self.kernel[0]).saturating_sub(self.before[0]).min(height);
        (rows.start * self.stride[0]).saturating_sub(self.before[0]).min(end)..end
    }
}

/// The weights of a layer in the file, by indices of initializers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Source {
    pub(crate) weights: usize,
    /// One per output channel, or a single one; `None` if the weights are floats.
    pub(crate) scales: Option<usize>,
    pub(crate) bias: Option<usize>,
    /// True if the output channels are the second axis, as in a matrix product.
    pub(crate) outputs_last: bool,
    /// Results are multiplied by these and then these are added, one for each output channel.
    pub(crate) affine: Option<[Vec<f32>; 2]>,
}

impl Source {
    /// Multiplies the results, as they are so far, by `factors` and adds `terms`.
    pub(crate) fn apply(&mut self, factors: &[f32], terms: &[f32]) {
        let count = factors.len();
        let [all, sums] = self.affine.get_or_insert_with(|| [vec![1.0; count], vec![0.0; count]]);
        for (((all, sum), factor), term) in all.iter_mut().zip(sums).zip(factors).zip(terms) {
            *all *= factor;
            *sum = *sum * factor + term;
        }
    }
}

/// The weights of a step. Clones share packed weights.
#[derive(Debug, Clone)]
pub(crate) enum Weights {
    Unloaded(Source),
    I8(Arc<PackedI8>),
    F32(Arc<PackedF32>),
    Depthwise(Arc<Depthwise>),
}

/// The weights of a depthwise convolution, `[height][width][channels]`, and the bias of each channel.
#[derive(Debug)]
pub(crate) struct Depthwise {
    pub(crate) values: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

/// What a step computes, before a map is added and the activation applied.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// Each result from all channels of a window, or from the same channel only.
    Convolution { window: Window, depthwise: bool, weights: Weights },
    /// The largest of a window or its mean, in each channel; the mean of `padded` windows counts zeros outside.
    Pool { window: Window, largest: bool, padded: bool },
    /// The mean of all pixels: a vector.
    Mean,
    /// Each channel times a value of a vector.
    Scale { by: MapId },
    /// Each channel times a factor, plus a term.
    Affine { factors: Vec<f32>, terms: Vec<f32> },
    /// The map itself.
    Copy,
}

impl Op {
    pub(crate) fn window(&self) -> Window {
        match self {
            Self::Convolution { window, .. } | Self::Pool { window, .. } => *window,
            Self::Mean | Self::Scale { .. } | Self::Affine { .. } | Self::Copy => Window::POINT,
        }
    }

    /// True for a convolution over all channels of more than a pixel, whose windows are gathered as rows (im2col).
    pub(crate) fn gathers(&self) -> bool {
        matches!(self, Self::Convolution { window, depthwise: false, .. } if !window.is_point())
    }

    /// Its kind in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Convolution { depthwise: true, .. } => "depthwise convolution",
            Self::Convolution { window, .. } if window.is_point() => "pointwise convolution",
            Self::Convolution { .. } => "convolution",
            Self::Pool { .. } => "pooling",
            Self::Mean => "mean of pixels",
            Self::Scale { .. } => "scale",
            Self::Affine { .. } => "batch norm",
            Self::Copy => "elementwise",
        }
    }
}

/// `out = activation(op(x) + add)`.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// Name of the output of the ONNX node that it was made of.
    pub(crate) name: String,
    pub(crate) op: Op,
    pub(crate) x: MapId,
    pub(crate) add: Option<MapId>,
    pub(crate) activation: Option<Activation>,
    pub(crate) out: MapId,
}

impl Step {
    /// The maps that it reads besides `x`.
    pub(crate) fn others(&self) -> impl Iterator<Item = MapId> {
        let by = if let Op::Scale { by } = self.op { Some(by) } else { None };
        [self.add, by].into_iter().flatten()
    }

    /// How often it reads `map`.
    pub(crate) fn reads(&self, map: MapId) -> usize {
        usize::from(self.x == map) + self.others().filter(|other| *other == map).count()
    }
}

/// A tower. Every map is written by one step, map 0 being the pixels, whose values lie plane by plane.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) maps: Vec<Shape>,
    pub(crate) steps: Vec<Step>,
    /// The embedding, a vector.
    pub(crate) output: MapId,
}

impl Program {
    /// How often `map` is read.
    pub(crate) fn uses(&self, map: MapId) -> usize {
        self.steps.iter().map(|step| step.reads(map)).sum::<usize>() + usize::from(self.output == map)
    }

    /// Multiplications and additions of a step, and whether they are of 8-bit integers; `None` where they are not counted.
    pub(crate) fn operations(&self, step: &Step) -> Option<(u64, bool)> {
        let (x, out) = (self.maps[step.x], self.maps[step.out]);
        let Op::Convolution { window, depthwise, weights } = &step.op else { return None };
        let per_result = window.kernel[0] * window.kernel[1] * if *depthwise { 1 } else { x.channels };
        Some((2 * (per_result * out.height * out.row()) as u64, matches!(weights, Weights::I8(_))))
    }

    /// Index of the step that writes `map`; none for the pixels.
    pub(crate) fn writer(&self, map: MapId) -> Option<usize> {
        self.steps.iter().position(|step| step.out == map)
    }
}
