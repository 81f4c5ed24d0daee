//! The demo bundle: inside the program, so that one file on a board is enough to begin, or in the package's folder where the
//! program was built without the feature `demo`.

use spotter_engine::bundle::{Bundle, BundleError};

/// Path of the bundle in messages.
#[cfg(feature = "demo")]
const BUNDLE_NAME: &str = "demo bundle inside the program";

/// Folder where the package puts the bundle.
#[cfg(not(feature = "demo"))]
const BUNDLE_NAME: &str = "/usr/share/spotter/demo";

/// The demo bundle cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{BUNDLE_NAME}: cannot be used; name a bundle in the configuration (`bundle`), or activate another one")]
pub struct DemoError(#[from] BundleError);

/// Opens the demo bundle.
pub fn bundle() -> Result<Bundle, DemoError> {
    Ok(open()?)
}

#[cfg(feature = "demo")]
fn open() -> Result<Bundle, BundleError> {
    const FILES: [(&str, &[u8]); 5] = [
        ("bundle.json", include_bytes!("../../../config/demo/bundle.json")),
        ("vision.onnx", include_bytes!("../../../config/demo/vision.onnx")),
        ("text.onnx", include_bytes!("../../../config/demo/text.onnx")),
        ("tokenizer.json", include_bytes!("../../../config/demo/tokenizer.json")),
        ("MODEL_CARD.md", include_bytes!("../../../config/demo/MODEL_CARD.md")),
    ];
    Bundle::from_memory(BUNDLE_NAME, FILES)
}

#[cfg(not(feature = "demo"))]
fn open() -> Result<Bundle, BundleError> {
    Bundle::open(std::path::Path::new(BUNDLE_NAME))
}
