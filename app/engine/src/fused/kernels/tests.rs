//! Tests of all kernels that this CPU runs, at every edge of their tiles.

mod depthwise;
mod panels;
mod pool;
mod rows;

/// A pseudo-random number generator with a fixed seed.
struct Random(u64);

impl Random {
    /// The next 32 bits.
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// -1 to 1.
    fn float(&mut self) -> f32 {
        self.bits() as f32 / 2_147_483_648.0 - 1.0
    }

    fn floats(&mut self, count: usize, range: f32) -> Vec<f32> {
        (0..count).map(|_| self.float() * range).collect()
    }

    /// -127 to 127.
    fn weight(&mut self) -> i8 {
        ((self.bits() % 255) as i32 - 127) as i8
    }
}
