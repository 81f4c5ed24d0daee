//! Why a JPEG cannot be decoded.

/// Why a JPEG cannot be decoded: damage, or an unsupported feature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct JpegError(#[from] pub(super) Problem);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error(
        "{found} JPEG: expected baseline, extended or progressive with Huffman coding; save it again as one of them"
    )]
    Coding { found: &'static str },
    #[error("{bits} bits a sample: expected 8; save it again with 8")]
    Precision { bits: u8 },
    #[error("a frame header without a height, which a DNL marker would tell later; save it again")]
    NoHeight,
    #[error("{count} components: expected 1, 3 or 4")]
    Components { count: u8 },
    #[error("component {component} with sampling factors {} x {}: expected 1 to 4 that divide {} x {}; save it again as 4:4:4, 4:2:2 or 4:2:0", found.0, found.1, largest.0, largest.1)]
    Sampling { component: u8, found: (usize, usize), largest: (usize, usize) },
    #[error("a malformed segment after the marker {marker:#04x}")]
    Segment { marker: u8 },
    #[error("marker {found:#04x} where none such may stand")]
    Marker { found: u8 },
    #[error("no image before the end-of-image marker")]
    NoPicture,
    #[error("a scan of component {id}, which the frame header has not, or the scan twice")]
    ScanComponent { id: u8 },
    #[error("more than 10 blocks in an MCU")]
    McuSize,
    #[error("a scan of coefficients or bits that no progressive image may have")]
    Progression,
    #[error("more than {} scans; save it again with fewer", super::MAX_SCANS)]
    Scans,
    #[error("a second scan of an image whose first had all components")]
    SecondScan,
    #[error("quantisation table {number} is missing")]
    NoQuantization { number: usize },
    #[error("Huffman table {number} is missing")]
    NoHuffmanTable { number: usize },
    #[error("Huffman table {number} is impossible")]
    HuffmanTable { number: usize },
}
