//! Why a checkpoint was refused.

use std::path::{Path, PathBuf};

/// Why a checkpoint was refused.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file could not be opened or read.
    #[error("{}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The path is not a checkpoint directory.
    #[error(
        "{}: not a checkpoint: expected a directory with config.json, weights (model.safetensors, pytorch_model.bin or \
         the .index.json of either), a tokenizer and preprocessor_config.json; found {found}", .path.display()
    )]
    NotACheckpoint {
        /// The path as given.
        path: PathBuf,
        /// What is there, and what to do.
        found: String,
    },
    /// A path of the checkpoint is not a regular file.
    #[error("{}: expected a file, found {found}", .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// A description of what was found.
        found: &'static str,
    },
    /// A file is larger than any real one of its kind.
    #[error("{}: expected at most {bytes_max} bytes, found {found}, more than any real one", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        bytes_max: u64,
        /// Its size in bytes.
        found: u64,
    },
    /// The file is a Git LFS pointer.
    #[error(
        "{}: a Git LFS pointer instead of the file; run `git lfs pull` in the repository that it came from",
        .path.display()
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// No weights in a supported format.
    #[error(
        "{}: no weights: expected model.safetensors, pytorch_model.bin, or the .index.json of either; found {found}",
        .path.display()
    )]
    NoWeights {
        /// The checkpoint.
        path: PathBuf,
        /// What is there instead, and what to do.
        found: String,
    },
    /// A file is not JSON.
    #[error("{}: not valid JSON", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's message, with line and column.
        source: serde_json::Error,
    },
    /// A key has a value of the wrong type, or out of range.
    #[error("{}: {key}: expected {expected}, found {found}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key, with dots.
        key: String,
        /// The accepted values.
        expected: String,
        /// A description of what was found.
        found: String,
    },
    /// The checkpoint uses something that is not supported.
    #[error("{}: {key} {found} is not supported: {reason}", .path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key, with dots.
        key: String,
        /// A description of what was found.
        found: String,
        /// What is supported, and why nothing else.
        reason: String,
    },
    /// A shard that the index names is missing.
    #[error(
        "{}: missing shard: {} says that it has {tensors} tensors; download the checkpoint again",
        .shard.display(), .index.display()
    )]
    MissingShard {
        /// The missing file.
        shard: PathBuf,
        /// The index.
        index: PathBuf,
        /// Number of tensors in it, by the index.
        tensors: usize,
    },
    /// A weights file is damaged or not a safetensors file.
    #[error("{}: not a usable safetensors file: {message}; download or save it again", .path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A PyTorch file is damaged, or does not hold a state dict.
    #[error(
        "{}: not a usable PyTorch file: {message}; download it again, or load it where you trust it and save the model \
         with `save_pretrained(..., safe_serialization=True)`", .path.display()
    )]
    TorchFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A PyTorch file names functions that tensors do not need. None of them was run.
    #[error(
        "{}: refused: byte {at} of its pickle names {name}, which no tensor needs, and Python would run it; get the \
         weights as model.safetensors, and do not load this file with Python", .path.display()
    )]
    UnsafePickle {
        /// The file.
        path: PathBuf,
        /// Offset in the pickle, in bytes.
        at: u64,
        /// Module and function.
        name: String,
    },
    /// Two tensors have names that mean the same weight.
    #[error("{}: two tensors for one weight: {first} and {second}; keep one of them", .path.display())]
    TwoTensors {
        /// The weights file that holds the second one.
        path: PathBuf,
        /// Name of the one.
        first: String,
        /// Name of the other.
        second: String,
    },
    /// A tensor is missing.
    #[error("{}: missing tensor {tensor}, expected with shape {expected:?}{hint}", .path.display())]
    MissingTensor {
        /// The weights file or the checkpoint.
        path: PathBuf,
        /// Its name, as transformers 4 writes it.
        tensor: String,
        /// Its expected shape.
        expected: Vec<usize>,
        /// The likely reason, or empty.
        hint: &'static str,
    },
    /// A tensor's shape differs from the configuration.
    #[error("{}: {tensor}: expected shape {expected:?} as config.json says, found {found:?}", .path.display())]
    Shape {
        /// The weights file.
        path: PathBuf,
        /// Its name in the file.
        tensor: String,
        /// The shape from the configuration.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor's element type is not a float.
    #[error("{}: {tensor}: expected f32, f16, bf16 or f64, found {found}; save the checkpoint as float", .path.display())]
    Dtype {
        /// The weights file.
        path: PathBuf,
        /// Its name in the file.
        tensor: String,
        /// The type in the file.
        found: String,
    },
    /// A weight is NaN or infinite.
    #[error(
        "{}: {tensor}: expected finite weights, found {value} at element {index}; the training diverged or the file \
         is damaged", .path.display()
    )]
    NotFinite {
        /// The weights file.
        path: PathBuf,
        /// Its name in the file.
        tensor: String,
        /// Index of the first such element, in row-major order.
        index: usize,
        /// The element.
        value: f32,
    },
    /// The tokenizer is unusable.
    #[error("{}: unusable tokenizer: {message}", .path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl CheckpointError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}
