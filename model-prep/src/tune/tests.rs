//! Training against PyTorch: the goldens of `tests/reference/make_tune.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};
use spotter_engine::bundle::TowerKind;

use super::lock::{Lock, Locking};
use super::model::{Batch, Model, Samples};
use super::ops::{tensor, to_vec};
use super::optimizer::{AdamW, Optimizer, Schedule, norm};
use super::parameters::Gradients;
use super::towers::{Input, Tokens, image_tower, patches, text_tower};
use crate::checkpoint::{Dropout, DualEncoderConfig, Tensors, TextConfig, VisionConfig};

/// Of the script.
const SETTINGS: AdamW = AdamW { rate: 1e-3, weight_decay: 0.1, norm_max: 1.0 };
const SCHEDULE: Schedule = Schedule { warmup: 4, steps: Some(20) };

const PAIRS: [&str; 8] = [
    "vit_bert",
    "deit_roberta",
    "beit_xlm",
    "beit_bert",
    "clip_clip",
    "dinov2_bert",
    "registers_roberta",
    "siglip_bert",
];

const LOCKS: [(&str, Locking); 5] = [
    ("none", Locking { lock: Lock::None, train_layers: None }),
    ("image", Locking { lock: Lock::Image, train_layers: None }),
    ("text", Locking { lock: Lock::Text, train_layers: None }),
    ("both", Locking { lock: Lock::Both, train_layers: None }),
    ("last", Locking { lock: Lock::None, train_layers: Some(1) }),
];

/// A golden: the pair's checkpoint, batches, and what PyTorch makes of them.
struct Golden {
    config: DualEncoderConfig,
    tensors: Tensors,
    images: Vec<Input>,
    texts: Vec<Input>,
    /// All float tensors of the file, with their shapes.
    values: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    _folder: tempfile::TempDir,
}

fn golden_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tune").join(name)
}

fn half(bits: u16) -> f32 {
    let magnitude = match (bits >> 10 & 31, f32::from(bits & 1023)) {
        (0, fraction) => fraction * (-24.0_f32).exp2(),
        (exponent, fraction) => (1.0 + fraction / 1024.0) * (f32::from(exponent) - 15.0).exp2(),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

impl Golden {
    fn open(pair: &str) -> Self {
        let bytes = std::fs::read(golden_path(&format!("{pair}.safetensors"))).expect("a golden");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let folder = tempfile::tempdir().expect("a folder");
        let config_path = folder.path().join("config.json");
        std::fs::copy(golden_path(&format!("{pair}.json")), &config_path).expect("a copy");
        let weights = file
            .tensors()
            .into_iter()
            .filter_map(|(name, view)| Some((name.strip_prefix("weight/")?.to_owned(), view)));
        let model = safetensors::serialize(weights, None).expect("a checkpoint");
        std::fs::write(folder.path().join("model.safetensors"), model).expect("writes");
        let mut config = DualEncoderConfig::read(&config_path).expect("a configuration");
        let values: BTreeMap<String, (Vec<usize>, Vec<f32>)> = file
            .tensors()
            .into_iter()
            .filter_map(|(name, view)| {
                let data = view.data();
                let values = match view.dtype() {
                    Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
                    Dtype::F16 => data.as_chunks().0.iter().map(|bytes| half(u16::from_le_bytes(*bytes))).collect(),
                    _ => return None,
                };
                Some((name, (view.shape().to_vec(), values)))
            })
            .collect();
        let (shape, pixels) = &values["pixel_values"];
        config.vision.set_image_size([shape[3], shape[4]], &config_path).expect("a size that the tower takes");
        let patching = *config.vision.patching();
        let images = pixels.chunks_exact(pixels.len() / shape[0]).map(|batch| {
            let rows = batch.chunks_exact(batch.len() / shape[1]).flat_map(|image| patches(image, &patching));
            let [height, width] = patching.patch_size;
            let shape = [shape[1], patching.patches(), 3 * height * width];
            Input::Patches(tensor(rows.collect(), &shape).expect("patches"))
        });
        let images = images.collect();
        let texts = texts(&file, &config.text);
        let tensors = Tensors::open(folder.path()).expect("weights");
        Self { config, tensors, images, texts, values, _folder: folder }
    }

    fn model(&self, locking: &Locking) -> Model<'_> {
        Model::new(&self.config, &self.tensors, locking).expect("a model")
    }

    /// The two batches, for what is locked with what locked parts make of them.
    fn batches(&self, locking: &Locking, model: &Model<'_>) -> Vec<Batch> {
        let free = self.model(&LOCKS[0].1);
        let samples = |kind: TowerKind, input: &Input| {
            if locking.lock.holds(kind) {
                return Samples::Pooled(free.pooled(kind, input).expect("pooled"));
            }
            if !model.has_layers_below(kind) {
                return Samples::Whole(input.clone());
            }
            let rest = match input {
                Input::Patches(_) => Input::Computed,
                other => other.clone(),
            };
            Samples::Hidden(model.below(kind, input).expect("hidden states"), rest)
        };
        let batch = |(image, text): (&Input, &Input)| {
            let texts = samples(TowerKind::Text, text);
            let count = texts.len().expect("samples") as u64;
            Batch { images: samples(TowerKind::Image, image), texts, groups: (0..count).collect() }
        };
        self.images.iter().zip(&self.texts).map(batch).collect()
    }
}

/// Both batches of tokens.
fn texts(file: &SafeTensors<'_>, config: &TextConfig) -> Vec<Input> {
    let read = |name: &str| -> Vec<u32> {
        let view = file.tensor(name).expect("integers");
        view.data().as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as u32).collect()
    };
    let shape = file.tensor("input_ids").expect("integers").shape().to_vec();
    let (ids, mask) = (read("input_ids"), read("attention_mask"));
    let size = shape[1] * shape[2];
    let batch = |number: usize| {
        let range = number * size..(number + 1) * size;
        let positions = ids[range.clone()].chunks_exact(shape[2]).flat_map(|ids| {
            let mut counted = 0;
            let place = |(index, id): (usize, &u32)| match config.padding_id() {
                Some(padding) if *id == padding as u32 => *id,
                Some(padding) => {
                    counted += 1;
                    padding as u32 + counted
                }
                None => index as u32,
            };
            ids.iter().enumerate().map(place).collect::<Vec<_>>()
        });
        Input::Tokens(Tokens {
            ids: ids[range.clone()].to_vec(),
            types: vec![0; size],
            positions: positions.collect(),
            mask: Arc::new(mask[range].iter().map(|mask| *mask == 1).collect()),
            batch: shape[1],
        })
    };
    (0..shape[0]).map(batch).collect()
}

/// The name of a tensor without the prefix that towers of CLIP and SigLIP have twice.
fn canonical(name: &str) -> String {
    let inner = |tower: &str| name.strip_prefix(tower).filter(|rest| rest.starts_with(tower));
    inner("vision_model.").or_else(|| inner("text_model.")).unwrap_or(name).to_owned()
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

fn difference(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
}

/// Every parameter that has a gradient in PyTorch has the same one here, and no other parameter has one.
#[test]
fn gradients_of_every_parameter_are_those_of_torch() {
    for pair in PAIRS {
        let golden = Golden::open(pair);
        let model = golden.model(&LOCKS[0].1);
        let batches = golden.batches(&LOCKS[0].1, &model);
        let step = model.step(&batches[0], 0, [99, 99]).expect("a step");
        let loss = f64::from(golden.values["losses/none"].1[0]);
        assert!((step.loss - loss).abs() < 1e-4 * loss, "{pair}: loss {} for {loss}", step.loss);
        let expected: BTreeMap<String, &Vec<f32>> = golden
            .values
            .iter()
            .filter_map(|(name, (_, values))| Some((canonical(name.strip_prefix("gradient/")?), values)))
            .collect();
        let names: Vec<&String> = step.gradients.keys().collect();
        assert_eq!(names, expected.keys().collect::<Vec<_>>(), "{pair}: parameters with a gradient");
        for (name, expected) in expected {
            let error = difference(&step.gradients[&name], expected);
            let limit = 2e-4 * largest(expected) + 2e-6 * loss as f32;
            assert!(error < limit, "{pair}, {name}: gradients differ by {error}, largest is {}", largest(expected));
        }
    }
}

#[test]
fn twenty_steps_are_those_of_torch_with_anything_locked() {
    for pair in PAIRS {
        let golden = Golden::open(pair);
        for (lock, locking) in LOCKS {
            let model = golden.model(&locking);
            let batches = golden.batches(&locking, &model);
            let mut optimizer = Optimizer::default();
            let losses = &golden.values[&format!("losses/{lock}")].1;
            for (number, expected) in losses.iter().enumerate() {
                let step = model.step(&batches[number % 2], number as u64, [99, 99]).expect("a step");
                let error = (step.loss - f64::from(*expected)).abs();
                assert!(error < 1e-3, "{pair}, {lock}, step {number}: loss {} for {expected}", step.loss);
                let scale = [SCHEDULE.share(number as u64), norm(&step.gradients)];
                optimizer.update(&model.parameters, &step.gradients, &SETTINGS, scale).expect("an update");
            }
            let prefix = format!("change/{lock}/");
            let changes =
                golden.values.iter().filter_map(|(name, (_, values))| Some((name.strip_prefix(&prefix)?, values)));
            let mut count = 0;
            for (name, change) in changes {
                let name = canonical(name);
                let var =
                    model.parameters.var(&name).unwrap_or_else(|| panic!("{pair}, {lock}: {name} is not trained"));
                let before = golden.tensors.read(&name, var.dims()).expect("values");
                let expected: Vec<f32> = before.iter().zip(change).map(|(before, change)| before + change).collect();
                let error = difference(&to_vec(var).expect("values"), &expected);
                assert!(
                    error < 1e-4,
                    "{pair}, {lock}, {name}: weights differ by {error}, changed by {}",
                    largest(change)
                );
                count += 1;
            }
            assert_eq!(count, optimizer.moments.len(), "{pair}, {lock}: as many trained parameters");
        }
    }
}

/// A batch that is embedded in parts, twice, gives the loss and the gradients of one that is embedded once; with dropout
/// too, since it depends on the sample.
#[test]
fn gradient_caching_changes_nothing() {
    for (pair, dropout) in [("vit_bert", 0.0), ("vit_bert", 0.3), ("beit_xlm", 0.3), ("siglip_bert", 0.0)] {
        let mut golden = Golden::open(pair);
        let share = Dropout { hidden: dropout, attention: dropout, path: dropout };
        match &mut golden.config.vision {
            VisionConfig::Vit(config) => config.encoder.dropout = share,
            VisionConfig::Beit(config) => config.encoder.dropout = share,
            VisionConfig::Siglip(config) => config.encoder.dropout.attention = dropout,
            other => panic!("another tower: {other:?}"),
        }
        match &mut golden.config.text {
            TextConfig::Bert(config) => config.encoder.dropout = share,
            TextConfig::Roberta(config) => config.bert.encoder.dropout = share,
            other => panic!("another tower: {other:?}"),
        }
        for (lock, locking) in LOCKS {
            let model = golden.model(&locking);
            let batch = &golden.batches(&locking, &model)[0];
            let whole = model.step(batch, 5, [99, 99]).expect("a step");
            for parts in [[2, 3], [1, 99], [99, 4]] {
                let found = model.step(batch, 5, parts).expect("a step");
                assert!((found.loss - whole.loss).abs() < 1e-5, "{pair}, {lock}: {} for {}", found.loss, whole.loss);
                assert_eq!(found.gradients.len(), whole.gradients.len(), "{pair}, {lock}");
                for (name, expected) in &whole.gradients {
                    let error = difference(&found.gradients[name], expected);
                    assert!(error < 2e-5 * (1.0 + largest(expected)), "{pair}, {lock}, {parts:?}, {name}: {error}");
                }
            }
            let other: Gradients = model.step(batch, 6, [99, 99]).expect("a step").gradients;
            let is_same = other == whole.gradients;
            assert_eq!(is_same, dropout == 0.0 || lock == "both", "{pair}, {lock}: another step draws other numbers");
        }
    }
}

/// A tower that can be exported but not trained is refused by name, with the lock that leaves it alone.
#[test]
fn other_towers_are_refused_by_name() {
    struct Case {
        config: &'static str,
        /// What the errors of image tower and text tower say; nothing if it can be trained.
        refused: [&'static [&'static str]; 2],
    }
    for Case { config, refused } in [
        Case {
            config: r#"{"model_type": "vision-text-dual-encoder", "vision_config": {"model_type": "swin"},
                "text_config": {"model_type": "mpnet"}}"#,
            refused: [&["a Swin image tower", "--lock image"], &["an MPNet text tower", "--lock text"]],
        },
        Case {
            config: r#"{"model_type": "vision-text-dual-encoder", "vision_config": {"model_type": "swinv2"},
                "text_config": {"model_type": "roberta", "position_embedding_type": "relative_key"}}"#,
            refused: [&["a Swin image tower", "--lock image"], &["a relative-position BERT text tower", "--lock text"]],
        },
        Case {
            config: r#"{"model_type": "siglip", "vision_config": {}, "text_config": {}}"#,
            refused: [&[], &["a SigLIP text tower", "--lock text"]],
        },
        Case {
            config: r#"{"model_type": "vision-text-dual-encoder", "vision_config": {"model_type": "deit"},
                "text_config": {"model_type": "camembert"}}"#,
            refused: [&[], &[]],
        },
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.json");
        std::fs::write(&path, config).expect("writes");
        let read = DualEncoderConfig::read(&path).expect("a configuration");
        let errors = [image_tower(&read.vision).err(), text_tower(&read.text).err()];
        for (error, parts) in errors.into_iter().zip(refused) {
            let error = error.map(|error| error.to_string());
            assert_eq!(error.is_some(), !parts.is_empty(), "{config}: {error:?}");
            assert!(parts.iter().all(|part| error.as_ref().is_some_and(|e| e.contains(part))), "{config}: {error:?}");
        }
    }
}
