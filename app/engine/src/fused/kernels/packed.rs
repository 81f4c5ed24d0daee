//! Weights and activations in the layouts of the panel kernels.

/// Memory layout of packed weights: panels of `nr` output channels, in which `k_tile` consecutive inputs of a channel are
/// adjacent: `[panel][input block][nr][k_tile]`, padded with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Output channels per panel.
    pub(crate) nr: usize,
    /// Adjacent inputs.
    pub(crate) k_tile: usize,
}

/// Bytes of a cache line. A vector load that is aligned to one touches a single line.
const CACHE_LINE_BYTES: usize = 64;

/// A zeroed buffer aligned to a cache line. The system allocates its pages on first write.
#[derive(Debug)]
pub(super) struct AlignedBuf<T> {
    /// Never grows, so that its address does not change.
    storage: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> AlignedBuf<T> {
    pub(super) fn zeros(len: usize) -> Self {
        let per_line = CACHE_LINE_BYTES / size_of::<T>();
        let storage = vec![T::default(); len + per_line];
        let start = storage.as_ptr().align_offset(CACHE_LINE_BYTES).min(per_line);
        Self { storage, start, len }
    }

    pub(super) fn values(&self) -> &[T] {
        &self.storage[self.start..self.start + self.len]
    }

    pub(super) fn values_mut(&mut self) -> &mut [T] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

/// Reinterprets bytes as signed integers.
pub(crate) fn signed(bytes: &[u8]) -> &[i8] {
    // SAFETY: both have one byte and no invalid values.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}

/// What [`super::Kernels::limit_pairs`] took off the weights of a panel.
#[cfg(target_arch = "x86_64")]
#[derive(Debug)]
pub(super) struct Surplus {
    /// The inputs whose weights were reduced. Input 0 fills gaps.
    pub(super) inputs: Vec<u32>,
    /// `[inputs / 4][nr][4]`.
    pub(super) values: AlignedBuf<i8>,
}

/// The weights of an int8 linear layer, its scales and its bias.
#[derive(Debug)]
pub(crate) struct PackedI8 {
    pub(super) layout: Layout,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) values: AlignedBuf<i8>,
    /// One for each panel whose weights were reduced; empty before.
    #[cfg(target_arch = "x86_64")]
    pub(super) surplus: Vec<Option<Surplus>>,
    /// Sum of the weights of each output channel. These three vectors are padded to whole panels.
    pub(super) sums: Vec<i32>,
    pub(super) scales: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

impl PackedI8 {
    /// Allocates zeros. [`Self::set`] may set each channel once.
    pub(crate) fn new(layout: Layout, inputs: usize, outputs: usize) -> Self {
        let padded = outputs.div_ceil(layout.nr) * layout.nr;
        Self {
            layout,
            inputs,
            outputs,
            values: AlignedBuf::zeros(padded * inputs.div_ceil(layout.k_tile) * layout.k_tile),
            #[cfg(target_arch = "x86_64")]
            surplus: Vec::new(),
            sums: vec![0; padded],
            scales: vec![0.0; padded],
            bias: vec![0.0; padded],
        }
    }

    /// Number of inputs.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Number of output channels.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.outputs.div_ceil(self.layout.nr)
    }

    pub(super) fn panel(&self, panel: usize) -> &[i8] {
        let len = self.layout.nr * self.inputs.div_ceil(self.layout.k_tile) * self.layout.k_tile;
        &self.values.values()[panel * len..][..len]
    }

    /// Sets the channels from `first` on, from a matrix [inputs, channels].
    ///
    /// # Panics
    /// If the lengths do not agree or the channels do not fit.
    #[inline(always)]
    pub(crate) fn set(&mut self, first: usize, weights: &[i8], scales: &[f32], bias: Option<&[f32]>) {
        let count = scales.len();
        assert!(first + count <= self.outputs && weights.len() == count * self.inputs);
        self.scales[first..first + count].copy_from_slice(scales);
        if let Some(bias) = bias {
            self.bias[first..first + count].copy_from_slice(bias);
        }
        let Layout { nr, k_tile } = self.layout;
        let panel_len = nr * self.inputs.div_ceil(k_tile) * k_tile;
        let values = self.values.values_mut();
        for (block, rows) in weights.chunks(k_tile * count).enumerate() {
            let mut column = 0;
            while column < count {
                // The channels within one panel.
                let (panel, within) = ((first + column) / nr, (first + column) % nr);
                let width = (nr - within).min(count - column);
                let start = panel * panel_len + (block * nr + within) * k_tile;
                let out = &mut values[start..start + width * k_tile];
                let sums = &mut self.sums[first + column..first + column + width];
                let row = |i: usize| rows.get(i * count + column..i * count + column + width);
                match (k_tile, row(0), row(1), row(2), row(3)) {
                    (4, Some(a), Some(b), Some(c), Some(d)) => interleave([a, b, c, d], out, sums),
                    _ => {
                        for (i, row) in rows.chunks(count).enumerate() {
                            for (j, w) in row[column..column + width].iter().enumerate() {
                                out[j * k_tile + i] = *w;
                                sums[j] += i32::from(*w);
                            }
                        }
                    }
                }
                column += width;
            }
        }
    }

    /// Changes the shape without allocating, for matrices that change from run to run. All values become zero.
    ///
    /// # Panics
    /// If it would need more memory than [`Self::new`] allocated.
    pub(crate) fn reshape(&mut self, inputs: usize, outputs: usize) {
        let Layout { nr, k_tile } = self.layout;
        let padded = outputs.div_ceil(nr) * nr;
        let len = padded * inputs.div_ceil(k_tile) * k_tile;
        assert!(padded <= self.bias.len());
        (self.inputs, self.outputs) = (inputs, outputs);
        self.values.values_mut()[..len].fill(0);
        self.sums[..padded].fill(0);
        self.scales[..padded].fill(0.0);
    }

    /// Sets the biases of the channels from `first` on.
    pub(crate) fn set_bias(&mut self, first: usize, bias: &[f32]) {
        self.bias[first..first + bias.len()].copy_from_slice(bias);
    }

    /// Sets the weights of channel `column`; padding stays zero.
    #[inline(always)]
    pub(crate) fn set_channel(&mut self, column: usize, weights: &[i8], scale: f32) {
        assert!(column < self.outputs && weights.len() == self.inputs);
        self.scales[column] = scale;
        self.sums[column] = weights.iter().map(|w| i32::from(*w)).sum();
        let (layout, values) = self.channel(column);
        match layout.k_tile {
            4 => spread::<4>(weights, layout.nr, values),
            8 => spread::<8>(weights, layout.nr, values),
            16 => spread::<16>(weights, layout.nr, values),
            k_tile => {
                for (out, chunk) in values.chunks_mut(layout.nr * k_tile).zip(weights.chunks(k_tile)) {
                    out[..chunk.len()].copy_from_slice(chunk);
                }
            }
        }
    }

    /// The memory from the first byte of a channel to the end of its panel.
    #[inline(always)]
    fn channel(&mut self, column: usize) -> (Layout, &mut [i8]) {
        let Layout { nr, k_tile } = self.layout;
        let panel_len = nr * self.inputs.div_ceil(k_tile) * k_tile;
        let start = column / nr * panel_len + column % nr * k_tile;
        let end = (column / nr + 1) * panel_len;
        (self.layout, &mut self.values.values_mut()[start..end])
    }
}

/// Writes groups of `D` consecutive weights, `nr` groups apart.
#[inline(always)]
fn spread<const D: usize>(weights: &[i8], nr: usize, out: &mut [i8]) {
    let (whole, rest) = weights.as_chunks::<D>();
    let mut groups = out.chunks_mut(nr * D);
    for (group, out) in whole.iter().zip(&mut groups) {
        out[..D].copy_from_slice(group);
    }
    if let (false, Some(out)) = (rest.is_empty(), groups.next()) {
        out[..rest.len()].copy_from_slice(rest);
    }
}

/// Rounds to the nearest integer, half to even. `x` must be from -127 to 127, up to rounding.
#[inline(always)]
pub(super) fn to_byte(x: f32) -> u8 {
    // Adding 1.5 * 2^23 rounds; the lowest byte of the sum is the integer.
    (x + 12_582_912.0).to_bits() as u8
}

/// The common case of [`PackedI8::set`], in a form that compiles to shuffles.
#[inline(always)]
fn interleave(rows: [&[i8]; 4], out: &mut [i8], sums: &mut [i32]) {
    let [a, b, c, d] = rows;
    for (((((out, sum), a), b), c), d) in out.as_chunks_mut::<4>().0.iter_mut().zip(sums).zip(a).zip(b).zip(c).zip(d) {
        *out = [*a, *b, *c, *d];
        *sum += i32::from(i16::from(*a) + i16::from(*b) + i16::from(*c) + i16::from(*d));
    }
}

/// The weights of a float linear layer and its bias, or the second matrix of any product.
#[derive(Debug)]
pub(crate) struct PackedF32 {
    pub(super) layout: Layout,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    values: AlignedBuf<f32>,
    pub(super) bias: Vec<f32>,
}

impl PackedF32 {
    /// Allocates zeros.
    pub(crate) fn new(layout: Layout, inputs: usize, outputs: usize) -> Self {
        assert_eq!(layout.k_tile, 1);
        let padded = outputs.div_ceil(layout.nr) * layout.nr;
        Self { layout, inputs, outputs, values: AlignedBuf::zeros(padded * inputs), bias: vec![0.0; padded] }
    }

    /// Number of inputs.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Number of output channels.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.outputs.div_ceil(self.layout.nr)
    }

    pub(super) fn panel(&self, panel: usize) -> &[f32] {
        let len = self.layout.nr * self.inputs;
        &self.values.values()[panel * len..][..len]
    }

    /// Sets the channels from `first` on, from a matrix [inputs, channels].
    ///
    /// # Panics
    /// If the lengths do not agree or the channels do not fit.
    pub(crate) fn set(&mut self, first: usize, weights: &[f32], count: usize, bias: Option<&[f32]>) {
        assert!(first + count <= self.outputs && weights.len() == count * self.inputs);
        if let Some(bias) = bias {
            self.bias[first..first + count].copy_from_slice(bias);
        }
        for (input, row) in weights.chunks(count).enumerate() {
            self.set_input(input, first, row);
        }
    }

    /// Sets the weights of one input for the channels from `first` on.
    pub(crate) fn set_input(&mut self, input: usize, first: usize, row: &[f32]) {
        assert!(input < self.inputs && first + row.len() <= self.outputs);
        let nr = self.layout.nr;
        let panel_len = nr * self.inputs;
        let values = self.values.values_mut();
        let mut column = 0;
        while column < row.len() {
            let (panel, within) = ((first + column) / nr, (first + column) % nr);
            let width = (nr - within).min(row.len() - column);
            values[panel * panel_len + input * nr + within..][..width].copy_from_slice(&row[column..][..width]);
            column += width;
        }
    }

    /// Changes the shape without allocating, for matrices that change from run to run. Values are undefined until they are
    /// set again.
    ///
    /// # Panics
    /// If it would need more memory than [`Self::new`] allocated.
    pub(crate) fn reshape(&mut self, inputs: usize, outputs: usize) {
        let padded = outputs.div_ceil(self.layout.nr) * self.layout.nr;
        assert!(padded * inputs <= self.values.len && padded <= self.bias.len());
        (self.inputs, self.outputs) = (inputs, outputs);
    }

    /// Sets the biases of the channels from `first` on.
    pub(crate) fn set_bias(&mut self, first: usize, bias: &[f32]) {
        self.bias[first..first + bias.len()].copy_from_slice(bias);
    }

    /// Sets the weights of channel `column`.
    pub(crate) fn set_channel(&mut self, column: usize, weights: &[f32]) {
        assert!(column < self.outputs && weights.len() == self.inputs);
        let nr = self.layout.nr;
        let start = column / nr * nr * self.inputs + column % nr;
        let values = &mut self.values.values_mut()[start..];
        for (out, w) in values.iter_mut().step_by(nr).zip(weights) {
            *out = *w;
        }
    }
}

/// A view of rows in a larger matrix of floats.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    /// Row `r` starts at `r * stride`.
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) width: usize,
    pub(crate) rows: usize,
}

impl<'a> Matrix<'a> {
    /// The rows.
    #[inline(always)]
    pub(crate) fn iter(self) -> impl Iterator<Item = &'a [f32]> {
        self.values.chunks(self.stride).take(self.rows).map(move |row| &row[..self.width])
    }
}

/// Rows of quantised activations, as [`super::Kernels::quantize`] makes them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuantizedRows<'a> {
    /// Row `r` starts at `r * stride`.
    pub(crate) values: &'a [u8],
    /// Bytes from row to row: a multiple of 16 that is at least the number of values.
    pub(crate) stride: usize,
    /// One per row.
    pub(crate) scales: &'a [f32],
    /// One per row.
    pub(crate) zero_points: &'a [i32],
}
