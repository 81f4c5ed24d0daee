//! 16-bit floats.

/// Values from here on round to infinity.
const OVERFLOW: f32 = 65_520.0;

/// The smallest magnitude with all eleven bits.
const NORMAL_MIN: f32 = 1.0 / 16_384.0;

/// The nearest 16-bit float of a finite value, ties to even; infinity beyond the range.
pub(crate) fn to_half(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = value.abs();
    let rest = if magnitude >= OVERFLOW {
        0x7c00
    } else if magnitude < NORMAL_MIN {
        // A multiple of 2^-24. The largest result is the smallest normal number.
        (magnitude * 16_777_216.0).round_ties_even() as u16
    } else {
        let bits = magnitude.to_bits();
        let rounded = bits + 0xfff + (bits >> 13 & 1);
        ((rounded >> 13) - (112 << 10)) as u16
    };
    sign | rest
}

/// True if no value of a tensor is beyond the range, and few enough bits are lost of its smaller values.
pub(crate) fn fits_half(values: &[f32]) -> bool {
    let largest = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    // The step of the smallest numbers is 2^-24: 13 bits below the largest weight are kept at least.
    largest < OVERFLOW && (largest == 0.0 || largest >= 1.0 / 2048.0)
}

#[cfg(test)]
mod tests {
    use super::{fits_half, to_half};

    #[test]
    fn floats_of_16_bits() {
        for (value, expected) in [
            (0.0, 0),
            (-0.0, 0x8000),
            (1.0, 0x3c00),
            (-2.5, 0xc100),
            (1.0 / 3.0, 0x3555),
            (65_504.0, 0x7bff),
            (65_519.0, 0x7bff),
            (65_520.0, 0x7c00),
            (2.0f32.powi(-14), 0x0400),
            (2.0f32.powi(-24), 1),
            (2.0f32.powi(-26), 0),
            // Halfway between two: to the even one.
            (1.0 + 1.0 / 2048.0, 0x3c00),
            (1.0 + 3.0 / 2048.0, 0x3c02),
        ] {
            assert_eq!(to_half(value), expected, "{value}");
        }
        assert!(fits_half(&[0.0, 1.0, -3.0]) && fits_half(&[0.0]));
        assert!(!fits_half(&[1.0, 70_000.0]) && !fits_half(&[1e-5]));
    }
}
