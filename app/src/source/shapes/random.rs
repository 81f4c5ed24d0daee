//! Pseudo-random numbers that are the same on every machine.

/// The generator SplitMix64 (Steele, Lea and Flood 2014): any seed is good, also 0 and neighbours.
pub(super) struct Random(u64);

impl Random {
    /// A generator seeded by the keys: equal keys give equal numbers, different keys independent ones.
    pub(super) fn new(keys: [u64; 3]) -> Self {
        let mut random = Random(0);
        for key in keys {
            random.0 ^= key;
            random.0 = random.bits();
        }
        random
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    pub(super) fn unit(&mut self) -> f32 {
        // 24 bits, which f32 holds exactly.
        (self.bits() >> 40) as f32 / (1 << 24) as f32
    }

    /// Uniform in `low..high`.
    pub(super) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `0..n`, for small `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (((self.bits() >> 32) * n as u64) >> 32) as usize
    }

    /// Roughly normal, mean 0, deviation 1: the sum of 12 uniform numbers, less 6.
    pub(super) fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread() {
        let mut random = Random::new([1, 2, 3]);
        let (mut sum, mut squares, mut counts) = (0.0, 0.0, [0; 5]);
        for _ in 0..10_000 {
            let value = random.normal();
            (sum, squares) = (sum + value, squares + value * value);
            counts[random.below(5)] += 1;
            assert!((0.0..1.0).contains(&random.unit()));
        }
        assert!(sum.abs() < 400.0 && (squares - 10_000.0).abs() < 600.0, "{sum} {squares}");
        assert!(counts.iter().all(|count| (1800..2200).contains(count)), "{counts:?}");
        assert_ne!(Random::new([0, 0, 0]).bits(), Random::new([0, 0, 1]).bits());
        assert_ne!(Random::new([0, 1, 0]).bits(), Random::new([1, 0, 0]).bits());
    }
}
