//! Keys and values of one head as int8 weights, made anew for every input.

use super::{Kernels, PackedI8};

impl Kernels {
    /// Packs keys `[tokens][dim]` as the weights of `tokens` output channels, each with a scale of its own, times
    /// `scale`.
    ///
    /// The mean key is taken off each: it shifts all scores of a query alike, which softmax does not see, and leaves the
    /// range of the bytes to what differs between tokens. `keys` and `mean` are overwritten.
    pub(crate) fn pack_keys(&self, keys: &mut [f32], mean: &mut [f32], scale: f32, packed: &mut PackedI8) {
        assert!(mean.len() == packed.inputs && keys.len() == packed.outputs * packed.inputs);
        match self.name {
            // SAFETY: these tables are only reachable on a CPU that has their instructions.
            #[cfg(target_arch = "x86_64")]
            "avx512vnni" => unsafe { x86::keys_512(keys, mean, scale, packed) },
            #[cfg(target_arch = "x86_64")]
            "avx2" => unsafe { x86::keys_256(keys, mean, scale, packed) },
            _ => pack_keys(keys, mean, scale, packed),
        }
    }

    /// Packs values `[tokens][dim]` as the weights of `dim` output channels, each with a scale of its own. `scales` is
    /// overwritten.
    pub(crate) fn pack_values(&self, values: &[f32], scales: &mut [f32], packed: &mut PackedI8) {
        assert!(scales.len() == packed.outputs && values.len() == packed.outputs * packed.inputs);
        match self.name {
            // SAFETY: these tables are only reachable on a CPU that has their instructions.
            #[cfg(target_arch = "x86_64")]
            "avx512vnni" => unsafe { x86::values_512(values, scales, packed) },
            #[cfg(target_arch = "x86_64")]
            "avx2" => unsafe { x86::values_256(values, scales, packed) },
            _ => pack_values(values, scales, packed),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::PackedI8;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
    pub(super) fn keys_512(keys: &mut [f32], mean: &mut [f32], scale: f32, packed: &mut PackedI8) {
        super::pack_keys(keys, mean, scale, packed);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn keys_256(keys: &mut [f32], mean: &mut [f32], scale: f32, packed: &mut PackedI8) {
        super::pack_keys(keys, mean, scale, packed);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
    pub(super) fn values_512(values: &[f32], scales: &mut [f32], packed: &mut PackedI8) {
        super::pack_values(values, scales, packed);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn values_256(values: &[f32], scales: &mut [f32], packed: &mut PackedI8) {
        super::pack_values(values, scales, packed);
    }
}

#[inline(always)]
fn pack_keys(keys: &mut [f32], mean: &mut [f32], scale: f32, packed: &mut PackedI8) {
    let dim = mean.len();
    mean.fill(0.0);
    for key in keys.chunks_exact(dim) {
        for (mean, x) in mean.iter_mut().zip(key) {
            *mean += x;
        }
    }
    let share = dim as f32 / keys.len() as f32;
    for mean in mean.iter_mut() {
        *mean *= share;
    }
    for (token, key) in keys.chunks_exact_mut(dim).enumerate() {
        let mut largest = 0;
        for (x, mean) in key.iter_mut().zip(&*mean) {
            *x -= mean;
            largest = largest.max(magnitude(*x));
        }
        let (step, inverse) = scale_of(largest);
        packed.set_floats(token, key, step * scale, inverse);
    }
}

#[inline(always)]
fn pack_values(values: &[f32], scales: &mut [f32], packed: &mut PackedI8) {
    let dim = scales.len();
    // Bits of the largest magnitudes first, inverse steps later.
    scales.fill(0.0);
    for row in values.chunks_exact(dim) {
        for (largest, x) in scales.iter_mut().zip(row) {
            *largest = f32::from_bits(largest.to_bits().max(magnitude(*x)));
        }
    }
    for (channel, scale) in scales.iter_mut().enumerate() {
        let (step, inverse) = scale_of(scale.to_bits());
        packed.scales[channel] = step;
        *scale = inverse;
    }
    for (token, row) in values.chunks_exact(dim).enumerate() {
        packed.set_input(token, row, scales);
    }
}

/// Bits without the sign; magnitudes are ordered as these are.
#[inline(always)]
fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// Step and inverse step, for a largest magnitude given by its bits. A value that is not finite makes both NaN.
#[inline(always)]
fn scale_of(largest: u32) -> (f32, f32) {
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        (f32::NAN, f32::NAN)
    } else if largest < f32::MIN_POSITIVE * 127.0 {
        (1.0, 1.0)
    } else {
        (largest / 127.0, 127.0 / largest)
    }
}
