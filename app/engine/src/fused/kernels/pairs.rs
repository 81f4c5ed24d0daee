//! Weights for `vpmaddubsw`, which multiplies unsigned by signed bytes and saturates the sum of two products to 16 bits.
//!
//! Saturation cannot occur if `|w[2i] + w[2i + 1]| <= 128` in each channel, since activations are at most 255. Few pairs of
//! weights are larger. Of those, the first weight is reduced; what was taken off is the surplus of the panel, a few more
//! inputs that repeat the activations of reduced weights. The sum of both is the exact result.

use super::packed::{AlignedBuf, Surplus};
use super::{Kernels, Layout, PackedI8};

/// The largest sum of two weights: `255 * 128` fits into 16 bits.
const SUM_MAX: i16 = 128;

/// Inputs of a block.
const K_TILE: usize = 4;

impl Kernels {
    /// Prepares weights that do not change any more, if these kernels are faster for it. Results stay the same to the last
    /// bit.
    pub(crate) fn limit_pairs(&self, weights: &mut PackedI8) {
        if self.name == "avx2" {
            // SAFETY: this table is only reachable on a CPU that has its instructions.
            unsafe { limit(weights) }
        }
    }
}

#[target_feature(enable = "avx2")]
fn limit(weights: &mut PackedI8) {
    let Layout { nr, k_tile } = weights.layout;
    assert!(k_tile == K_TILE && weights.surplus.is_empty());
    let blocks = weights.inputs.div_ceil(K_TILE);
    let all = weights.values.values_mut();
    weights.surplus = all.chunks_exact_mut((blocks * nr * K_TILE).max(1)).map(|panel| limit_panel(panel, nr)).collect();
}

/// `None`, and nothing changed, if the surplus would take longer than is won: from a third of the inputs on.
#[target_feature(enable = "avx2")]
fn limit_panel(panel: &mut [i8], nr: usize) -> Option<Surplus> {
    let (block_len, panel_len) = (nr * K_TILE, panel.len());
    let mut large = Vec::new();
    for (block, weights) in panel.chunks_exact(block_len).enumerate() {
        let mut most = [0; K_TILE / 2];
        for [a, b, c, d] in weights.as_chunks::<K_TILE>().0 {
            most = [most[0].max(sum(*a, *b).abs()), most[1].max(sum(*c, *d).abs())];
        }
        large.extend((0..K_TILE / 2).filter(|pair| most[*pair] > SUM_MAX).map(|pair| block * K_TILE + 2 * pair));
    }
    let pays = |inputs: usize| 3 * inputs * nr <= panel_len;
    if !pays(large.len()) {
        return None;
    }
    // Each with the surplus of its channels. In pairs too, which must fit as well: those that do not are kept apart by zeros.
    let mut columns: Vec<(u32, Vec<i8>)> = Vec::new();
    for input in large {
        let weights = &panel[input / K_TILE * block_len..][..block_len];
        let over = |weights: &[i8; K_TILE]| {
            let sum = sum(weights[input % K_TILE], weights[input % K_TILE + 1]);
            (sum - sum.clamp(-SUM_MAX, SUM_MAX)) as i8
        };
        let column: Vec<i8> = weights.as_chunks().0.iter().map(over).collect();
        let fits = |before: &[i8]| before.iter().zip(&column).all(|(a, b)| sum(*a, *b).abs() <= SUM_MAX);
        if !columns.len().is_multiple_of(2) && !columns.last().is_some_and(|(_, before)| fits(before)) {
            columns.push((0, vec![0; nr]));
        }
        columns.push((input as u32, column));
    }
    columns.resize(columns.len().next_multiple_of(K_TILE), (0, vec![0; nr]));
    if !pays(columns.len()) {
        return None;
    }
    let mut values = AlignedBuf::zeros(columns.len() * nr);
    for (i, (input, column)) in columns.iter().enumerate() {
        let at = |input: usize, channel: usize| input / K_TILE * block_len + channel * K_TILE + input % K_TILE;
        for (channel, surplus) in column.iter().enumerate() {
            values.values_mut()[at(i, channel)] = *surplus;
            panel[at(*input as usize, channel)] -= surplus;
        }
    }
    Some(Surplus { inputs: columns.into_iter().map(|(input, _)| input).collect(), values })
}

#[inline(always)]
fn sum(a: i8, b: i8) -> i16 {
    i16::from(a) + i16::from(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduced_weights_and_surplus_add_up() {
        let nr = 16;
        // Every eighth pair is too large in a channel, at the extremes of a byte too. Two of equal sign are far too large.
        let before: Vec<i8> = (0..64 * nr * K_TILE)
            .map(|i| match (i / K_TILE % nr, i / (nr * K_TILE), i % K_TILE) {
                (3, block, 2 | 3) if block.is_multiple_of(4) => {
                    if block == 0 {
                        127
                    } else {
                        -128
                    }
                }
                (_, block, at) => ((block * 7 + at * 31) % 128) as i8 - 64,
            })
            .collect();
        let mut panel = before.clone();
        // SAFETY: only if the CPU has the instructions.
        let Some(surplus) = is_x86_feature_detected!("avx2").then(|| unsafe { limit_panel(&mut panel, nr) }) else {
            return;
        };
        let surplus = surplus.unwrap();
        assert_eq!(surplus.inputs[..6], [2, 18, 34, 0, 50, 0]);
        for pair in panel.as_chunks::<2>().0.iter().chain(surplus.values.values().as_chunks::<2>().0) {
            assert!(sum(pair[0], pair[1]).abs() <= SUM_MAX, "{pair:?}");
        }
        let at = |input: usize, channel: usize| input / K_TILE * nr * K_TILE + channel * K_TILE + input % K_TILE;
        for (i, input) in surplus.inputs.iter().enumerate() {
            for channel in 0..nr {
                panel[at(*input as usize, channel)] += surplus.values.values()[at(i, channel)];
            }
        }
        assert_eq!(panel, before);
    }

    #[test]
    fn panels_with_many_large_pairs_stay_as_they_are() {
        let mut panel = vec![127; 4 * 16 * K_TILE];
        // SAFETY: only if the CPU has the instructions.
        let found = is_x86_feature_detected!("avx2").then(|| unsafe { limit_panel(&mut panel, 16) });
        assert!(found.flatten().is_none() && panel.iter().all(|w| *w == 127));
    }
}
