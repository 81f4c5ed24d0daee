//! Quantises and packs keys and values of one attention head, for every input again.

use super::{Kernels, Matrix, PackedI8, signed};

/// The instructions that a function of this file is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compiled {
    /// Those that every CPU of the target has.
    Baseline,
    /// AVX2 with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Compiled {
    /// Those to run beside the kernels called `name`. `None` for a table without an arm here, which runs the baseline until
    /// the test below fails.
    fn of(name: &str) -> Option<Self> {
        match name {
            "scalar" | "neon" | "dotprod" | "i8mm" => Some(Self::Baseline),
            #[cfg(target_arch = "x86_64")]
            "avx2" | "avxvnni" => Some(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            "avx512vnni" => Some(Self::Avx512),
            _ => None,
        }
    }
}

/// Compiles each function for AVX2 and AVX-512 besides the baseline, and adds a method to [`Kernels`] that chooses.
macro_rules! chosen {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*);)*) => {
        impl Kernels {
            $($(#[$doc])*
            pub(crate) fn $name(&self, $($argument: $type),*) {
                match Compiled::of(self.name) {
                    // SAFETY: these tables are only reachable on a CPU that has their instructions.
                    #[cfg(target_arch = "x86_64")]
                    Some(Compiled::Avx512) => unsafe { avx512::$name($($argument),*) },
                    #[cfg(target_arch = "x86_64")]
                    Some(Compiled::Avx2) => unsafe { avx2::$name($($argument),*) },
                    Some(Compiled::Baseline) | None => $name($($argument),*),
                }
            })*
        }

        #[cfg(target_arch = "x86_64")]
        mod avx512 {
            use super::{Matrix, PackedI8};
            $(#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
            pub(super) fn $name($($argument: $type),*) {
                super::$name($($argument),*);
            })*
        }

        #[cfg(target_arch = "x86_64")]
        mod avx2 {
            use super::{Matrix, PackedI8};
            $(#[target_feature(enable = "avx2,fma")]
            pub(super) fn $name($($argument: $type),*) {
                super::$name($($argument),*);
            })*
        }
    };
}

chosen! {
    /// Adds the rows of `rows` to `sums`.
    add_rows(rows: Matrix<'_>, sums: &mut [f32]);

    /// Packs keys minus `mean` as the weights of the output channels from `first` on; each has its own scale, multiplied by
    /// `scale`.
    pack_keys(keys: Matrix<'_>, first: usize, mean: &[f32], scale: f32, packed: &mut PackedI8);

    /// Raises each of `largest` to the largest magnitude in its column of `rows`. Values that are not finite count as large.
    raise_magnitudes(rows: Matrix<'_>, largest: &mut [f32]);

    /// Quantises values to bytes, row by row; `inverses` scale each column to -127 to 127.
    value_bytes(values: Matrix<'_>, inverses: &[f32], bytes: &mut [u8]);

    /// Packs a matrix [inputs, channels] of signed bytes.
    pack_bytes(bytes: &[u8], scales: &[f32], packed: &mut PackedI8);
}

#[inline(always)]
fn add_rows(rows: Matrix<'_>, sums: &mut [f32]) {
    for row in rows.iter() {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += x;
        }
    }
}

#[inline(always)]
fn pack_keys(keys: Matrix<'_>, first: usize, mean: &[f32], scale: f32, packed: &mut PackedI8) {
    let (mut centred, mut bytes) = ([0.0; HEAD_DIM_MAX], [0; HEAD_DIM_MAX]);
    let (centred, bytes) = (&mut centred[..mean.len()], &mut bytes[..mean.len()]);
    for (token, key) in keys.iter().enumerate() {
        let mut largest = 0;
        for ((out, x), mean) in centred.iter_mut().zip(key).zip(mean) {
            *out = x - mean;
            largest = largest.max(magnitude(*out));
        }
        let (step, inverse) = scale_of(f32::from_bits(largest));
        for (out, x) in bytes.iter_mut().zip(&*centred) {
            *out = super::packed::to_byte(x * inverse);
        }
        packed.set_channel(first + token, signed(bytes), step * scale);
    }
}

#[inline(always)]
fn raise_magnitudes(rows: Matrix<'_>, largest: &mut [f32]) {
    for row in rows.iter() {
        for (largest, x) in largest.iter_mut().zip(row) {
            *largest = f32::from_bits(largest.to_bits().max(magnitude(*x)));
        }
    }
}

#[inline(always)]
fn value_bytes(values: Matrix<'_>, inverses: &[f32], bytes: &mut [u8]) {
    for (out, row) in bytes.chunks_exact_mut(inverses.len()).zip(values.iter()) {
        for ((out, x), inverse) in out.iter_mut().zip(row).zip(inverses) {
            *out = super::packed::to_byte(x * inverse);
        }
    }
}

#[inline(always)]
fn pack_bytes(bytes: &[u8], scales: &[f32], packed: &mut PackedI8) {
    packed.set(0, signed(bytes), scales, None);
}

/// The largest head that is quantised. No known tower has a larger one.
pub(crate) const HEAD_DIM_MAX: usize = 256;

/// Bits without the sign, which are ordered as the magnitudes.
#[inline(always)]
fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// Step and inverse step for a largest magnitude; both are NaN if it is not finite.
#[inline(always)]
pub(crate) fn scale_of(largest: f32) -> (f32, f32) {
    if !largest.is_finite() {
        (f32::NAN, f32::NAN)
    } else if largest < f32::MIN_POSITIVE * 127.0 {
        (1.0, 1.0)
    } else {
        (largest / 127.0, 127.0 / largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_an_arm() {
        for kernels in Kernels::available() {
            assert!(Compiled::of(kernels.name).is_some(), "{kernels:?}: name what runs beside it in `Compiled::of`");
        }
    }
}
