//! The size of an image after each step.

use super::{PreprocessConfig, Resize, Size, Target};

impl PreprocessConfig {
    /// Size of the tensor, if it does not depend on the image.
    pub fn output_size(&self) -> Option<Size> {
        match (self.pad.or(self.crop), &self.resize) {
            (Some(size), _) | (None, &Some(Resize { to: Target::Exact(size), .. })) => Some(size),
            _ => None,
        }
    }

    /// The same configuration for tensors of another size; `None` if the size depends on the image.
    ///
    /// If there is a crop, the size before it is scaled with it, rounded down, so that the same share of the image is
    /// cut off: 256 cropped to 224 becomes 438 cropped to 384. An exact size is scaled along each axis. Edges are
    /// scaled by the ratio of the crops' longer sides, so that a crop that is not square gets no black bars if a square
    /// one had none. If there is padding, all steps before it are scaled alike.
    pub fn with_output_size(&self, size: Size) -> Option<Self> {
        let from = self.output_size()?;
        let scaled = |pixels: usize, to: usize, from: usize| (pixels.saturating_mul(to) / from.max(1)).max(1);
        let edge = |pixels| scaled(pixels, size.height.max(size.width), from.height.max(from.width));
        let resize = self.resize.as_ref().map(|resize| {
            let to = match resize.to {
                Target::Exact(exact) => Target::Exact(Size {
                    height: scaled(exact.height, size.height, from.height),
                    width: scaled(exact.width, size.width, from.width),
                }),
                Target::ShortestEdge(shortest) => Target::ShortestEdge(edge(shortest)),
                Target::Edges { shortest, longest } => {
                    Target::Edges { shortest: edge(shortest), longest: edge(longest) }
                }
            };
            Resize { to, filter: resize.filter }
        });
        let crop = self.crop.map(|crop| Size {
            height: scaled(crop.height, size.height, from.height),
            width: scaled(crop.width, size.width, from.width),
        });
        Some(Self { resize, crop, pad: self.pad.map(|_| size), ..self.clone() })
    }

    /// Size of an image after the resize step and before the crop. It may exceed any memory, but does not overflow. A
    /// side is 0 if resizing to a longest edge leaves nothing of the shorter side.
    pub(super) fn resized(&self, from: Size) -> Size {
        match self.resize.as_ref().map(|resize| resize.to) {
            None => from,
            Some(Target::Exact(size)) => size,
            Some(Target::ShortestEdge(edge)) => {
                let (short, long) = (from.height.min(from.width), from.height.max(from.width));
                upright(from, edge, edge.saturating_mul(long) / short.max(1))
            }
            Some(Target::Edges { shortest, longest }) => within(from, shortest, longest),
        }
    }
}

/// A size with the orientation of the image.
fn upright(picture: Size, short: usize, long: usize) -> Size {
    if picture.width <= picture.height {
        Size { height: long, width: short }
    } else {
        Size { height: short, width: long }
    }
}

/// `transformers.image_transforms.get_size_with_aspect_ratio`, whose rounding is visible: a reduced shorter side is
/// rounded to the nearest, ties to even, and the longer side is computed from the value before rounding.
fn within(from: Size, shortest: usize, longest: usize) -> Size {
    let (short, long) = (from.height.min(from.width), from.height.max(from.width));
    let (short_f, long_f) = (short as f64, long as f64);
    let cut = (long_f / short_f * shortest as f64 > longest as f64).then(|| longest as f64 * short_f / long_f);
    let edge = cut.map_or(shortest, |cut| cut.round_ties_even() as usize);
    if short == edge {
        return from;
    }
    let follows = match cut {
        Some(cut) => (cut * long_f / short_f) as usize,
        None => edge.saturating_mul(long) / short.max(1),
    };
    upright(from, edge, follows)
}

#[cfg(test)]
mod tests {
    use super::super::Filter;
    use super::*;

    fn config(resize: Option<Target>, crop: Option<(usize, usize)>) -> PreprocessConfig {
        let resize = resize.map(|to| Resize { to, filter: Filter::Bicubic });
        let crop = crop.map(|(height, width)| Size { height, width });
        PreprocessConfig { resize, crop, ..PreprocessConfig::NONE }
    }

    fn exact(height: usize, width: usize) -> Target {
        Target::Exact(Size { height, width })
    }

    #[test]
    fn sizes_after_resizing() {
        let check = |to: Target, (height, width), expected: (usize, usize)| {
            let found = config(Some(to), None).resized(Size { height, width });
            assert_eq!((found.height, found.width), expected, "{to:?} of {height} x {width}");
        };
        check(exact(48, 48), (480, 640), (48, 48));
        check(Target::ShortestEdge(224), (480, 640), (224, 298));
        check(Target::ShortestEdge(224), (640, 480), (298, 224));
        check(Target::ShortestEdge(32), (7, 1), (224, 32));
        check(Target::ShortestEdge(24), (53, 31), (41, 24));
        check(Target::ShortestEdge(10), (10, 10), (10, 10));
        check(Target::ShortestEdge(1), (2, 3), (1, 1));
        // Computed by get_size_with_aspect_ratio.
        let edges = |shortest, longest| Target::Edges { shortest, longest };
        check(edges(24, 30), (37, 53), (21, 30));
        check(edges(24, 30), (53, 37), (30, 21));
        check(edges(24, 30), (24, 25), (24, 25));
        check(edges(24, 48), (31, 33), (24, 25));
        check(edges(24, 30), (21, 30), (21, 30));
        check(edges(24, 30), (16, 200), (2, 30));
        check(edges(24, 48), (1, 300), (0, 48));
        check(edges(32, 31), (9, 9), (31, 31));
    }

    #[test]
    fn the_output_size_is_known_where_the_configuration_decides_it() {
        let check = |resize: Option<Target>, crop: Option<(usize, usize)>, expected: Option<(usize, usize)>| {
            let found = config(resize, crop).output_size().map(|size| (size.height, size.width));
            assert_eq!(found, expected, "{resize:?} {crop:?}");
        };
        check(Some(exact(48, 40)), None, Some((48, 40)));
        check(Some(exact(48, 40)), Some((8, 9)), Some((8, 9)));
        check(Some(Target::ShortestEdge(48)), Some((48, 48)), Some((48, 48)));
        check(Some(Target::ShortestEdge(48)), None, None);
        check(Some(Target::Edges { shortest: 4, longest: 8 }), None, None);
        check(None, Some((48, 48)), Some((48, 48)));
        check(None, None, None);
    }

    #[test]
    fn another_output_size_keeps_the_share_of_the_image() {
        type Steps = (Option<Target>, Option<(usize, usize)>);
        let check = |(resize, crop): Steps, (height, width), expected: Option<Steps>| {
            let found = config(resize, crop).with_output_size(Size { height, width });
            assert_eq!(found, expected.map(|(resize, crop)| config(resize, crop)), "{resize:?} {crop:?}");
            let size = found.and_then(|config| config.output_size());
            assert!(size.is_none_or(|size| size == Size { height, width }), "{resize:?} {crop:?}: {size:?}");
        };
        let edge = Target::ShortestEdge;
        check((Some(exact(224, 224)), None), (384, 320), Some((Some(exact(384, 320)), None)));
        check((Some(exact(256, 256)), Some((224, 224))), (384, 384), Some((Some(exact(438, 438)), Some((384, 384)))));
        check((Some(exact(256, 256)), Some((224, 224))), (112, 224), Some((Some(exact(128, 256)), Some((112, 224)))));
        check((Some(edge(224)), Some((224, 224))), (336, 336), Some((Some(edge(336)), Some((336, 336)))));
        check((Some(edge(256)), Some((224, 224))), (224, 224), Some((Some(edge(256)), Some((224, 224)))));
        check((Some(edge(256)), Some((224, 224))), (224, 448), Some((Some(edge(512)), Some((224, 448)))));
        check((Some(edge(256)), Some((224, 224))), (1, 1), Some((Some(edge(1)), Some((1, 1)))));
        let edges = |shortest, longest| Some(Target::Edges { shortest, longest });
        check((edges(24, 30), Some((24, 24))), (48, 48), Some((edges(48, 60), Some((48, 48)))));
        check((None, Some((24, 24))), (48, 32), Some((None, Some((48, 32)))));
        check((Some(edge(224)), None), (224, 224), None);
        check((None, None), (224, 224), None);
    }
}
