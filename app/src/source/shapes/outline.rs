//! Outlines of the shapes: polygons around the origin, y pointing down.

use std::f32::consts::{FRAC_PI_2, TAU};
use std::fmt;

/// A shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Cross,
    Heart,
}

impl Shape {
    pub(super) const ALL: [Shape; 6] =
        [Shape::Circle, Shape::Square, Shape::Triangle, Shape::Star, Shape::Cross, Shape::Heart];

    /// Distance of the farthest corner of any shape of radius 1 from the origin: the corners of a cross lie outside of it.
    pub(super) const REACH: f32 = 1.06;

    /// The corners at radius 1.
    pub(super) fn corners(self) -> Vec<(f32, f32)> {
        /// Half the width of the arms of a cross.
        const ARM: f32 = 0.33;
        match self {
            // Enough sides to look round at any size.
            Shape::Circle => around(128, &[1.0], 0.0),
            Shape::Square => around(4, &[1.0], FRAC_PI_2 / 2.0),
            Shape::Triangle => around(3, &[1.0], -FRAC_PI_2),
            Shape::Star => around(10, &[1.0, 0.42], -FRAC_PI_2),
            Shape::Cross => vec![
                (-ARM, -1.0),
                (ARM, -1.0),
                (ARM, -ARM),
                (1.0, -ARM),
                (1.0, ARM),
                (ARM, ARM),
                (ARM, 1.0),
                (-ARM, 1.0),
                (-ARM, ARM),
                (-1.0, ARM),
                (-1.0, -ARM),
                (-ARM, -ARM),
            ],
            Shape::Heart => (0..64).map(|i| heart(TAU * i as f32 / 64.0)).collect(),
        }
    }
}

/// `n` corners at the given radii in turn, the first one in direction `angle`.
fn around(n: usize, radii: &[f32], angle: f32) -> Vec<(f32, f32)> {
    let corner = |i: usize| {
        let (sin, cos) = (angle + TAU * i as f32 / n as f32).sin_cos();
        let radius = radii[i % radii.len()];
        (radius * cos, radius * sin)
    };
    (0..n).map(corner).collect()
}

/// The heart curve (<https://mathworld.wolfram.com/HeartCurve.html>), scaled to radius 1.
fn heart(t: f32) -> (f32, f32) {
    let y = 13.0 * t.cos() - 5.0 * (2.0 * t).cos() - 2.0 * (3.0 * t).cos() - (4.0 * t).cos();
    (16.0 * t.sin().powi(3) / 17.0, -y / 17.0)
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shape::Circle => "circle",
            Shape::Square => "square",
            Shape::Triangle => "triangle",
            Shape::Star => "star",
            Shape::Cross => "cross",
            Shape::Heart => "heart",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners_are_within_reach() {
        for shape in Shape::ALL {
            let farthest = shape.corners().iter().map(|(x, y)| x.hypot(*y)).fold(0.0, f32::max);
            assert!((0.99..Shape::REACH).contains(&farthest), "{shape}: {farthest}");
        }
    }
}
