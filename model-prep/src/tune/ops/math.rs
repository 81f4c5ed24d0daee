//! Exponential and error function, in forms without branches that the compiler turns into vector instructions.

/// `e^x` to within 2 units in the last place; 0 below -87.3, where results would be subnormal. `x` is at most 88.
#[inline(always)]
pub(in crate::tune) fn exp(x: f32) -> f32 {
    // Adding and subtracting this rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, so that their products with a whole number are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let clamped = if x < -87.3 { -87.3 } else { x };
    let whole = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let rest = clamped - whole * LN_2[0] - whole * LN_2[1];
    // The Taylor series, whose first omitted term is below 2^-24 for |rest| <= ln 2 / 2.
    let series = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let power = series.iter().fold(1.0 / 5040.0, |sum: f32, coefficient| sum * rest + coefficient);
    let result = power * f32::from_bits((((whole as i32) + 127) << 23) as u32);
    if x < -87.3 { 0.0 } else { result }
}

/// The error function to within 5e-7: a quotient of polynomials, as in Eigen and XLA.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    const ABOVE: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_5e-5,
        -7.349_906_5e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const BELOW: [f32; 5] = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let above = ABOVE[1..].iter().fold(ABOVE[0], |sum, coefficient| sum * square + coefficient);
    let below = BELOW[1..].iter().fold(BELOW[0], |sum, coefficient| sum * square + coefficient);
    x * above / below
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp((-x).min(88.0)))
}

/// Hyperbolic tangent, to within 2e-7.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_those_of_double_precision() {
        // The integral of the density, by Simpson's rule.
        let exact_erf = |x: f64| {
            let (steps, density) = (2000, |t: f64| (-t * t).exp());
            let width = x / f64::from(steps);
            let sum = (0..=steps).map(|i| {
                let weight = if i == 0 || i == steps {
                    1.0
                } else if i % 2 == 1 {
                    4.0
                } else {
                    2.0
                };
                weight * density(f64::from(i) * width)
            });
            sum.sum::<f64>() * width / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
        };
        for index in -400..=400_i16 {
            let x = f32::from(index) * 0.02;
            let wide = f64::from(x);
            assert!((f64::from(exp(x)) / wide.exp() - 1.0).abs() < 3e-7, "exp {x}: {}", exp(x));
            assert!((f64::from(erf(x)) - exact_erf(wide)).abs() < 5e-7, "erf {x}: {}", erf(x));
            assert!((f64::from(sigmoid(x)) - 1.0 / (1.0 + (-wide).exp())).abs() < 2e-7, "sigmoid {x}");
            assert!((f64::from(tanh(x)) - wide.tanh()).abs() < 3e-7, "tanh {x}: {}", tanh(x));
        }
        for (x, expected) in [(-87.0, 1.6458115e-38), (-88.0, 0.0), (-1e30, 0.0), (0.0, 1.0), (88.0, 1.6516363e38)] {
            assert!((exp(x) - expected).abs() <= 1e-6 * expected, "{x}: {}", exp(x));
        }
        assert_eq!((sigmoid(1e30), tanh(-1e30)), (1.0, -1.0));
        assert!((0.0..1e-37).contains(&sigmoid(-1e30)));
        assert!((erf(9.0) - 1.0).abs() < 5e-7 && (erf(-1e30) + 1.0).abs() < 5e-7, "{}", erf(9.0));
    }
}
