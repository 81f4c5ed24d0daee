//! Pictures: 8-bit RGB pixels, and how encoded files become them.

/// An 8-bit RGB picture, rows top to bottom, three bytes a pixel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// Columns; 1 or more.
    pub width: usize,
    /// Rows; 1 or more.
    pub height: usize,
    /// `width * height * 3` bytes.
    pub rgb: Vec<u8>,
}
