//! Checks the values of a manifest.

use super::{BundleError, Dim, Dtype, MANIFEST_FILE, Manifest, TEXT_INPUTS, TOKENS_MAX, TensorSpec};
use crate::hash::parse_hex;
use crate::preprocess::MAX_SIDE;
use crate::score::{LOGIT_BIAS_MAX, LOGIT_SCALE_MAX};

/// Size limit of a tower: an ONNX file is one protobuf message, which cannot be larger.
const TOWER_BYTES_MAX: u64 = 1 << 31;

/// Size limit of files that are held in memory whole. A tokenizer of a million tokens takes half of it.
const WHOLE_BYTES_MAX: u64 = 128 << 20;

/// Smallest and largest L2 norm of an adapted label's embedding. Blends with examples have norms around 1.
const ADAPTED_NORMS: [f32; 2] = [0.01, 100.0];

/// Makes errors that name the manifest.
struct Checker<'a> {
    /// The manifest's path, for messages.
    path: &'a str,
}

impl Checker<'_> {
    fn check(&self, ok: bool, field: &'static str, expected: &str, found: String) -> Result<(), BundleError> {
        if ok {
            return Ok(());
        }
        Err(BundleError::Field { path: self.path.to_owned(), field, expected: expected.to_owned(), found })
    }

    fn files(&self, manifest: &Manifest) -> Result<(), BundleError> {
        let sizes_max = [TOWER_BYTES_MAX, TOWER_BYTES_MAX, WHOLE_BYTES_MAX, WHOLE_BYTES_MAX];
        for (file, bytes_max) in manifest.files().into_iter().zip(sizes_max) {
            let plain = !file.name.is_empty() && !file.name.contains(['/', '\\']) && !file.name.starts_with('.');
            self.check(plain && file.name != MANIFEST_FILE, "file.name", "a plain file name", file.name.clone())?;
            let is_hash = parse_hex::<32>(&file.sha256).is_some();
            self.check(is_hash, "file.sha256", "64 hexadecimal digits", file.sha256.clone())?;
            let wanted = format!("at most {bytes_max} for {:?}", file.name);
            self.check(file.bytes <= bytes_max, "file.bytes", &wanted, file.bytes.to_string())?;
        }
        Ok(())
    }

    fn scoring(&self, manifest: &Manifest) -> Result<(), BundleError> {
        let scale = manifest.logit_scale;
        let wanted = format!("a finite number below {LOGIT_SCALE_MAX}");
        self.check(scale.is_finite() && scale < LOGIT_SCALE_MAX, "logit_scale", &wanted, scale.to_string())?;
        let bias = manifest.logit_bias.unwrap_or(0.0);
        let wanted = format!("a number between -{LOGIT_BIAS_MAX:e} and {LOGIT_BIAS_MAX:e}");
        self.check(bias.abs() <= LOGIT_BIAS_MAX, "logit_bias", &wanted, bias.to_string())
    }

    fn outputs(&self, manifest: &Manifest) -> Result<(), BundleError> {
        let width = manifest.projection_dim;
        self.check(width > 0, "projection_dim", "1 or more", width.to_string())?;
        let embedding = |output: &TensorSpec| {
            output.dtype == Dtype::F32
                && matches!(&output.shape[..], [Dim::Named(_) | Dim::Fixed(1), Dim::Fixed(n)] if *n == width)
        };
        let wanted = format!("f32 [batch, {width}]");
        for (field, output) in [
            ("vision.output", Some(&manifest.vision.output)),
            ("vision.features", manifest.vision.features.as_ref()),
            ("text.output", Some(&manifest.text.output)),
            ("text.features", manifest.text.features.as_ref()),
        ] {
            if let Some(output) = output {
                self.check(embedding(output), field, &wanted, output.to_string())?;
            }
        }
        Ok(())
    }

    fn inputs(&self, manifest: &Manifest) -> Result<(), BundleError> {
        let all = |specs: &[TensorSpec]| specs.iter().map(TensorSpec::to_string).collect::<Vec<_>>().join("; ");
        let (images, texts) = (&manifest.vision.inputs, &manifest.text.inputs);
        let pixels = matches!(&images[..],
            [TensorSpec { dtype: Dtype::F32, shape, .. }]
                if matches!(shape[..], [Dim::Named(_) | Dim::Fixed(1), Dim::Fixed(3), Dim::Fixed(1..), Dim::Fixed(1..)]));
        self.check(pixels, "vision.inputs", "one f32 [batch, 3, height, width]", all(images))?;
        let [height, width] = manifest.image_size();
        let wanted = format!("sides of at most {MAX_SIDE} pixels");
        self.check(height.max(width) <= MAX_SIDE, "vision.inputs", &wanted, all(images))?;
        let is_tokens = |input: &TensorSpec| {
            input.dtype == Dtype::I64
                && TEXT_INPUTS.contains(&input.name.as_str())
                && matches!(input.shape[..], [Dim::Named(_), Dim::Named(_)])
        };
        let wanted = format!("i64 [batch, sequence] inputs among {}", TEXT_INPUTS.join(", "));
        self.check(!texts.is_empty() && texts.iter().all(is_tokens), "text.inputs", &wanted, all(texts))?;
        let length = manifest.tokenizer.max_length;
        let wanted = format!("2 to {TOKENS_MAX}");
        self.check((2..=TOKENS_MAX).contains(&length), "tokenizer.max_length", &wanted, length.to_string())
    }

    fn texts(&self, manifest: &Manifest) -> Result<(), BundleError> {
        self.check(!manifest.templates.is_empty(), "templates", "one or more", "none".into())?;
        for template in &manifest.templates {
            self.check(template.matches("{}").count() == 1, "templates", "one {} in each", template.clone())?;
        }
        for made in &manifest.overrides {
            self.check(!made.key.is_empty(), "overrides.key", "the name of an option", String::new())?;
            self.check(!made.reason.is_empty(), "overrides.reason", "why it was set", String::new())?;
        }
        Ok(())
    }

    fn adapted(&self, manifest: &Manifest) -> Result<(), BundleError> {
        let width = manifest.projection_dim;
        let [norm_min, norm_max] = ADAPTED_NORMS;
        let wanted = format!("the Base64 of {width} floats with an L2 norm between {norm_min} and {norm_max}");
        for label in &manifest.adapted_labels {
            let is_key = parse_hex::<32>(&label.sentences).is_some();
            self.check(is_key, "adapted_labels.sentences", "64 hexadecimal digits", label.sentences.clone())?;
            let values = label.values().unwrap_or_default();
            let norm = values.iter().map(|value| value * value).sum::<f32>().sqrt();
            let fits = values.len() == width && (norm_min..=norm_max).contains(&norm);
            let found = format!("{} floats of norm {norm} for {:?}", values.len(), label.name);
            self.check(fits, "adapted_labels.embedding", &wanted, found)?;
        }
        Ok(())
    }

    fn preprocess(&self, manifest: &Manifest) -> Result<(), BundleError> {
        if let Err(expected) = manifest.preprocess.validate() {
            self.check(false, "preprocess", &expected, format!("{:?}", manifest.preprocess))?;
        }
        let [height, width] = manifest.image_size();
        let size = manifest.preprocess.output_size();
        let fits = size.is_none_or(|size| [size.height, size.width] == [height, width]);
        let found = size.map_or_else(String::new, |size| format!("{} x {}", size.height, size.width));
        self.check(fits, "preprocess", &format!("images of {height} x {width}, the image tower's input"), found)
    }
}

impl Manifest {
    /// Checks every value; `path` is the manifest's path, for messages.
    pub(super) fn validate(&self, path: &str) -> Result<(), BundleError> {
        let checker = Checker { path };
        checker.files(self)?;
        checker.scoring(self)?;
        checker.outputs(self)?;
        // After this, the size of images is known.
        checker.inputs(self)?;
        checker.texts(self)?;
        checker.adapted(self)?;
        checker.preprocess(self)
    }
}
