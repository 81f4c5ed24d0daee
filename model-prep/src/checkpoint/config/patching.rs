//! Sizes of an image tower's input and of its patches.

use std::path::Path;

use serde_json::Value;
use spotter_engine::preprocess::MAX_SIDE;

use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// Sizes of an image tower's input and of its patches, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patching {
    /// Height and width of the input.
    pub image_size: [usize; 2],
    /// Height and width of the input that the tower was trained for and has position embeddings for.
    pub trained_size: [usize; 2],
    /// Height and width of a patch.
    pub patch_size: [usize; 2],
    /// True if the reference accepts images of any size without `interpolate_pos_encoding`.
    pub any_size: bool,
}

impl Patching {
    pub(super) fn read(object: &Object, image_size: usize, patch_size: usize) -> Result<Self, CheckpointError> {
        let channels = object.count("num_channels", 3)?;
        if channels != 3 {
            return Err(object.unsupported("num_channels", channels, "images have 3 channels"));
        }
        let image_size = pair(object, "image_size", image_size)?;
        let patch_size = pair(object, "patch_size", patch_size)?;
        if patch_size[0] > image_size[0] || patch_size[1] > image_size[1] {
            let expected = format!("at most image_size {image_size:?}");
            return Err(object.wrong("patch_size", &expected, object.get("patch_size")));
        }
        Ok(Self { image_size, trained_size: image_size, patch_size, any_size: false })
    }

    /// Rows and columns of patches; pixels beyond the last whole patch are ignored.
    pub fn grid(&self) -> [usize; 2] {
        self.grid_of(self.image_size)
    }

    /// Rows and columns of patches at the trained size.
    pub(crate) fn trained_grid(&self) -> [usize; 2] {
        self.grid_of(self.trained_size)
    }

    fn grid_of(&self, size: [usize; 2]) -> [usize; 2] {
        [size[0] / self.patch_size[0], size[1] / self.patch_size[1]]
    }

    /// Number of patches.
    pub fn patches(&self) -> usize {
        self.grid().iter().product()
    }

    /// Number of patches at the trained size.
    pub(crate) fn trained_patches(&self) -> usize {
        self.trained_grid().iter().product()
    }

    /// Side of the square grid from which the reference interpolates the position embeddings; `None` if it uses them
    /// unchanged.
    pub(crate) fn interpolated_from(&self) -> Option<usize> {
        let [height, width] = self.image_size;
        let same = self.patches() == self.trained_patches() && height == width;
        let asked = self.any_size || self.image_size != self.trained_size;
        (asked && !same).then(|| self.trained_patches().isqrt())
    }

    /// Refuses sizes without a whole patch, or beyond [`MAX_SIDE`].
    pub(super) fn check(&self, config: &Path) -> Result<(), CheckpointError> {
        let [height, width] = self.image_size;
        let [patch_height, patch_width] = self.patch_size;
        let fits = height >= patch_height && width >= patch_width && height.max(width) <= MAX_SIDE;
        if !fits {
            let expected =
                format!("at least one patch of {patch_height} x {patch_width} pixels, and sides of at most {MAX_SIDE}");
            return Err(wrong_size(config, self.image_size, &expected));
        }
        Ok(())
    }

    /// Refuses position embeddings that would be interpolated but do not form a square grid, as the reference requires.
    pub(super) fn check_positions(&self, config: &Path) -> Result<(), CheckpointError> {
        let Some(side) = self.interpolated_from() else { return Ok(()) };
        if side * side == self.trained_patches() {
            return Ok(());
        }
        let ([rows, columns], [height, width]) = (self.trained_grid(), self.trained_size);
        let expected = format!(
            "{height} x {width}: position embeddings of {rows} x {columns} patches cannot be interpolated, since the \
             reference requires a square grid"
        );
        Err(wrong_size(config, self.image_size, &expected))
    }
}

/// The error for an input size that a tower does not support.
pub(super) fn wrong_size(config: &Path, [height, width]: [usize; 2], expected: &str) -> CheckpointError {
    CheckpointError::Key {
        path: config.to_owned(),
        key: "size of the image tower's input (--image-size)".into(),
        expected: expected.to_owned(),
        found: format!("{height} x {width}"),
    }
}

/// Reads height and width, at most [`MAX_SIDE`] pixels each, given as one number for both or as a pair.
fn pair(object: &Object, key: &str, default: usize) -> Result<[usize; 2], CheckpointError> {
    let one = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=MAX_SIDE).contains(n));
    let expected = format!("a whole number from 1 to {MAX_SIDE}, or [height, width]");
    object.or(key, [default; 2], &expected, |v| match v {
        Value::Array(sides) => match &sides[..] {
            [height, width] => Some([one(height)?, one(width)?]),
            _ => None,
        },
        _ => one(v).map(|n| [n; 2]),
    })
}
