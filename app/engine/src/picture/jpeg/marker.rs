//! Second bytes of JPEG markers (ITU-T T.81, table B.1); the first is [`FILL`].

/// Follows a data byte 0xFF in entropy-coded data, to tell it from a marker.
pub const STUFFED: u8 = 0x00;
/// Temporary use in arithmetic coding; has no segment.
pub const TEM: u8 = 0x01;
/// Frame header: baseline.
pub const SOF0: u8 = 0xc0;
/// Frame header: extended sequential.
pub const SOF1: u8 = 0xc1;
/// Frame header: progressive.
pub const SOF2: u8 = 0xc2;
/// Frame header: lossless.
pub const SOF3: u8 = 0xc3;
/// Huffman tables.
pub const DHT: u8 = 0xc4;
/// Frame header: differential sequential. Those up to [`SOF7`] are hierarchical.
pub const SOF5: u8 = 0xc5;
/// Frame header: differential lossless.
pub const SOF7: u8 = 0xc7;
/// Frame header: sequential, arithmetic coding.
pub const SOF9: u8 = 0xc9;
/// Frame header: progressive, arithmetic coding.
pub const SOF10: u8 = 0xca;
/// Frame header: lossless, arithmetic coding.
pub const SOF11: u8 = 0xcb;
/// Conditioning of arithmetic coding.
pub const DAC: u8 = 0xcc;
/// Frame header: differential sequential, arithmetic coding. Those up to [`SOF15`] are hierarchical.
pub const SOF13: u8 = 0xcd;
/// Frame header: differential lossless, arithmetic coding.
pub const SOF15: u8 = 0xcf;
/// First of the eight restart markers.
pub const RST0: u8 = 0xd0;
/// Last of the eight restart markers.
pub const RST7: u8 = 0xd7;
/// Start of image.
pub const SOI: u8 = 0xd8;
/// End of image.
pub const EOI: u8 = 0xd9;
/// Start of scan.
pub const SOS: u8 = 0xda;
/// Quantisation tables.
pub const DQT: u8 = 0xdb;
/// Restart interval.
pub const DRI: u8 = 0xdd;
/// First of the sixteen application segments: JFIF.
pub const APP0: u8 = 0xe0;
/// Application segment of EXIF and XMP.
pub const APP1: u8 = 0xe1;
/// Application segment of colour profiles and of the Multi-Picture Format.
pub const APP2: u8 = 0xe2;
/// Application segment of Adobe.
pub const APP14: u8 = 0xee;
/// Last of the application segments.
pub const APP15: u8 = 0xef;
/// Comment.
pub const COM: u8 = 0xfe;
/// First byte of every marker; may be repeated before the second.
pub const FILL: u8 = 0xff;
