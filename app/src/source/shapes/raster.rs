//! Fills polygons with anti-aliased edges.

/// Blends `color` into the `width` x `height` image `rgb`, weighted by the polygon's coverage of each pixel. The polygon must
/// not cross itself, and must lie inside the image; outside of it, it is drawn distorted.
///
/// Every edge adds the area to its right, signed by its direction, to the pixels it crosses and their right
/// neighbours; summed up along a row this gives each pixel's coverage.
pub(super) fn fill(corners: &[(f32, f32)], color: [u8; 3], width: usize, height: usize, rgb: &mut [u8]) {
    let bounds = |values: &mut dyn Iterator<Item = f32>, size: usize| {
        let (low, high) = values.fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(v), high.max(v)));
        let pixel = |v: f32| v.clamp(0.0, size as f32) as usize;
        (pixel(low.floor()), pixel(high.ceil()))
    };
    let (left, right) = bounds(&mut corners.iter().map(|c| c.0), width);
    let (top, bottom) = bounds(&mut corners.iter().map(|c| c.1), height);
    if left >= right || top >= bottom {
        return;
    }
    // One more, since the last pixel adds to its right neighbour too.
    let mut area = vec![0.0; right - left + 1];
    for y in top..bottom {
        area.fill(0.0);
        let next = corners.iter().cycle().skip(1);
        for (&from, &to) in corners.iter().zip(next) {
            add_edge(&mut area, (from.0 - left as f32, from.1 - y as f32), (to.0 - left as f32, to.1 - y as f32));
        }
        let row = &mut rgb[(y * width + left) * 3..(y * width + right) * 3];
        blend(row, &area, color);
    }
}

/// Adds the part of the edge that lies in the row from y = 0 to 1.
fn add_edge(area: &mut [f32], from: (f32, f32), to: (f32, f32)) {
    if from.1.max(to.1) <= 0.0 || from.1.min(to.1) >= 1.0 || from.1 == to.1 {
        return;
    }
    let x_at = |y: f32| from.0 + (to.0 - from.0) * (y - from.1) / (to.1 - from.1);
    let (y0, y1) = (from.1.clamp(0.0, 1.0), to.1.clamp(0.0, 1.0));
    let limit = (area.len() - 1) as f32;
    let (x0, x1) = (x_at(y0).clamp(0.0, limit), x_at(y1).clamp(0.0, limit));
    let (left, right) = (x0.min(x1), x0.max(x1));
    let height = y1 - y0;
    let slope = if right > left { height / (right - left) } else { 0.0 };
    let last = area.len() - 1;
    for pixel in left as usize..=(right as usize).min(last) {
        let (a, b) = (left.max(pixel as f32), right.min(pixel as f32 + 1.0));
        let part = if right > left { slope * (b - a).max(0.0) } else { height };
        let beside = part * ((a + b) / 2.0 - pixel as f32);
        area[pixel] += part - beside;
        area[(pixel + 1).min(last)] += beside;
    }
}

fn blend(row: &mut [u8], area: &[f32], color: [u8; 3]) {
    let mut sum = 0.0;
    for (pixel, area) in row.chunks_exact_mut(3).zip(area) {
        sum += area;
        let cover = (sum.abs().min(1.0) * 256.0 + 0.5) as i32;
        if cover > 0 {
            for (value, color) in pixel.iter_mut().zip(color) {
                *value = (i32::from(*value) + (((i32::from(color) - i32::from(*value)) * cover + 128) >> 8)) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::outline::Shape;
    use super::*;

    /// Coverage of an 8x6 image in 1/255, by drawing white on black.
    fn cover(corners: &[(f32, f32)]) -> Vec<u8> {
        let mut rgb = vec![0; 8 * 6 * 3];
        fill(corners, [255; 3], 8, 6, &mut rgb);
        assert!(rgb.chunks(3).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]));
        rgb.chunks(3).map(|pixel| pixel[0]).collect()
    }

    /// Coverage by counting points on a fine grid, with the even-odd rule.
    fn counted(corners: &[(f32, f32)]) -> Vec<u8> {
        const FINE: usize = 32;
        let inside = |x: f32, y: f32| {
            let crossings = (0..corners.len()).filter(|&i| {
                let ((x0, y0), (x1, y1)) = (corners[i], corners[(i + 1) % corners.len()]);
                (y0 > y) != (y1 > y) && x < x0 + (x1 - x0) * (y - y0) / (y1 - y0)
            });
            crossings.count() % 2
        };
        let sample = |cell: usize, i: usize| cell as f32 + (i as f32 + 0.5) / FINE as f32;
        let count = |x: usize, y: usize| -> usize {
            (0..FINE * FINE).map(|i| inside(sample(x, i % FINE), sample(y, i / FINE))).sum()
        };
        (0..48).map(|i| (count(i % 8, i / 8) * 255 / (FINE * FINE)) as u8).collect()
    }

    #[test]
    fn outside_is_safe() {
        for (x, y) in [(-9.0, 3.0), (-1.0, -1.0), (7.0, 5.0), (4.0, 99.0), (f32::MAX, f32::MIN), (f32::NAN, 1.0)] {
            let corners: Vec<_> = Shape::Star.corners().iter().map(|c| (x + 3.0 * c.0, y + 2.5 * c.1)).collect();
            cover(&corners);
        }
    }

    #[test]
    fn coverage_is_the_area() {
        let star: Vec<_> = Shape::Star.corners().iter().map(|c| (4.0 + 3.0 * c.0, 3.0 + 2.5 * c.1)).collect();
        let reversed: Vec<_> = star.iter().rev().copied().collect();
        for (name, corners) in [
            ("aligned square", vec![(2.0, 1.0), (5.0, 1.0), (5.0, 4.0), (2.0, 4.0)]),
            ("half pixels", vec![(2.5, 1.5), (5.25, 1.5), (5.25, 4.75), (2.5, 4.75)]),
            ("inside of one pixel", vec![(2.2, 1.2), (2.8, 1.3), (2.5, 1.9)]),
            ("thin", vec![(0.0, 0.0), (8.0, 5.5), (8.0, 6.0)]),
            ("star", star),
            ("reversed", reversed),
            ("all", vec![(-9.0, -9.0), (20.0, -9.0), (20.0, 20.0), (-9.0, 20.0)]),
            ("nothing", vec![(20.0, 1.0), (21.0, 1.0), (21.0, 4.0)]),
        ] {
            for (i, (got, expected)) in cover(&corners).iter().zip(counted(&corners)).enumerate() {
                let off = i32::from(*got).abs_diff(i32::from(expected));
                assert!(off <= 8, "{name}: pixel {},{}: {got}, counted {expected}", i % 8, i / 8);
            }
        }
    }
}
