//! Random initial weights, from the same distributions as in PyTorch and transformers, but with other random numbers.

use spotter_engine::hash::Hasher;

/// The distribution of new values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Distribution {
    /// Always this value.
    Constant(f32),
    /// Uniform between `-bound` and `bound`.
    Uniform { bound: f64 },
    /// Normal with mean 0; if `truncated`, only between -2 and 2.
    Normal { deviation: f64, truncated: bool },
}

impl Distribution {
    /// The initialisation of `torch.nn.Linear`, which `VisionTextDualEncoderModel` keeps for its projections:
    /// `kaiming_uniform_` with a = sqrt 5, which is uniform between -1 / sqrt n and 1 / sqrt n for n inputs.
    pub(super) fn linear(inputs: usize) -> Self {
        Self::Uniform { bound: (inputs as f64).sqrt().recip() }
    }

    pub(super) fn draw(self, random: &mut Random) -> f32 {
        match self {
            Self::Constant(value) => value,
            Self::Uniform { bound } => (bound * (2.0 * random.unit() - 1.0)) as f32,
            Self::Normal { deviation, truncated } => loop {
                let value = deviation * random.normal();
                if !truncated || value.abs() <= 2.0 {
                    return value as f32;
                }
            },
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), implemented here so that a seed always gives the same numbers.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    /// Each tensor has its own sequence, independent of the other tensors.
    pub(super) fn new(seed: u64, tensor: &str) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(seed.to_le_bytes());
        hasher.update(tensor);
        let hash = hasher.finish();
        Self(u64::from_le_bytes(std::array::from_fn(|index| hash[index])))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normal with mean 0 and standard deviation 1 (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        // 1 - unit is never 0, so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::{Distribution, Random};

    /// Compares mean, standard deviation and share within one deviation with the known values.
    #[test]
    fn moments_are_those_of_the_distribution() {
        const COUNT: usize = 200_000;
        let check = |distribution: Distribution, deviation: f64, share: f64, limit: f64| {
            let mut random = Random::new(7, "test");
            let values: Vec<f64> = (0..COUNT).map(|_| distribution.draw(&mut random).into()).collect();
            let mean = values.iter().sum::<f64>() / COUNT as f64;
            let found = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / COUNT as f64).sqrt();
            let within = values.iter().filter(|v| v.abs() <= deviation).count() as f64 / COUNT as f64;
            let largest = values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            assert!(mean.abs() < 0.01 * deviation, "{distribution:?}: mean {mean}");
            assert!((found / deviation - 1.0).abs() < 0.01, "{distribution:?}: deviation {found}");
            assert!((within - share).abs() < 0.005, "{distribution:?}: {within} within one deviation");
            assert!(largest <= limit && largest > 0.9 * limit.min(4.0 * deviation), "{distribution:?}: {largest}");
        };
        let uniform = Distribution::linear(768);
        // Of a uniform distribution, 0.577 of the values lie within one standard deviation.
        check(uniform, 1.0 / (3.0_f64 * 768.0).sqrt(), 0.577, 1.0 / 768.0_f64.sqrt());
        check(Distribution::Normal { deviation: 0.02, truncated: true }, 0.02, 0.683, 2.0);
        check(Distribution::Normal { deviation: 0.2, truncated: false }, 0.2, 0.683, 2.0);
        // A normal distribution with deviation 2, truncated at one deviation, has deviation 1.0794.
        check(Distribution::Normal { deviation: 2.0, truncated: true }, 1.0794, 0.601, 2.0);
    }

    #[test]
    fn seeds_and_tensors_have_their_own_sequences() {
        let first = |seed, tensor| Random::new(seed, tensor).next();
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(2, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
    }
}
