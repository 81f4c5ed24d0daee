//! Every image tower with every text tower against transformers (`tests/reference/make_pairs.py`).

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model_prep::checkpoint::Checkpoint;
use model_prep::export::export;
use ndarray::{Array2, ArrayView2, s};
use safetensors::Dtype;
use serde_json::{Value, json};
use spotter_engine::bundle::{Bundle, Weights};
use spotter_engine::tokenize::Encoding;
use spotter_engine::tower::{ImageTower, TextTower, Threads};

use crate::towers::{Weight, save, tensors};
use crate::{text_towers, vision_towers};

const IMAGE_TOWERS: [&str; 10] =
    ["vit", "deit", "beit", "beit_shared", "clip", "dinov2", "dinov2_gated", "dinov2_registers", "siglip", "swin"];
const TEXT_TOWERS: [&str; 6] = ["bert", "roberta", "xlm-roberta", "camembert", "mpnet", "clip"];

const WORST_EMBEDDING: f32 = 1e-4;
const WORST_LOGIT: f32 = 1e-3;

pub(crate) struct Goldens(BTreeMap<String, Weight>);

impl Goldens {
    pub(crate) fn read() -> Self {
        Self(tensors(&e2e::root().join("tests/golden/pairs.safetensors")))
    }

    fn rows(&self, name: &str) -> Array2<f32> {
        let (dtype, shape, data) = &self.0[name];
        assert_eq!(*dtype, Dtype::F32, "{name}");
        let columns = shape.get(1).copied().unwrap_or(1);
        let values = data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Array2::from_shape_vec((shape[0], columns), values).unwrap()
    }
}

fn worst(found: ArrayView2<'_, f32>, expected: &Array2<f32>) -> f32 {
    assert_eq!(found.dim(), expected.dim());
    (&found - expected).iter().map(|difference| difference.abs()).fold(0.0, f32::max)
}

/// The checkpoint of two towers: a dual encoder, or what `change` makes of its config.json and weights.
pub(crate) fn checkpoint(
    [image, text]: [&str; 2],
    goldens: &Goldens,
    change: impl FnOnce(&mut Value, &mut BTreeMap<String, Weight>),
) -> (tempfile::TempDir, PathBuf) {
    let guard = tempfile::tempdir().unwrap();
    let folder = guard.path().join("checkpoint");
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(text_towers::text(text)).unwrap() {
        let entry = entry.unwrap();
        if entry.path().extension().is_none_or(|extension| extension != "safetensors") {
            std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
    }
    let case = vision_towers::case(image);
    let mut config = json!({
        "model_type": "vision-text-dual-encoder",
        "projection_dim": 24,
        "vision_config": case.vision_config,
        "text_config": text_towers::json_of(&folder.join("config.json")),
    });
    let mut weights = tensors(&vision_towers::golden(&format!("{}.safetensors", case.weights)));
    weights.retain(|name, _| name.starts_with("vision_model."));
    weights.extend(tensors(&text_towers::text(text).join("weights.safetensors")));
    weights.insert("visual_projection.weight".into(), goldens.0[&format!("{image}.visual_projection")].clone());
    weights.insert("logit_scale".into(), (Dtype::F32, Vec::new(), 1.75_f32.to_le_bytes().to_vec()));
    change(&mut config, &mut weights);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    save(&folder.join("model.safetensors"), &weights);
    let [height, width] = case.size;
    let preprocessor = json!({
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": height, "width": width},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    });
    std::fs::write(folder.join("preprocessor_config.json"), preprocessor.to_string()).unwrap();
    (guard, folder)
}

/// The first and the third of the text towers' prompts, as the tokenizer splits them.
fn encodings(tower: &str, text: &TextTower) -> Vec<Encoding> {
    let prompts = text_towers::json_of(&text_towers::text("prompts.json"));
    let prompts: Vec<String> = serde_json::from_value(prompts["many"].clone()).unwrap();
    let all = text.tokenizer().encode_batch(&prompts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    assert!(all.len() > 2, "{tower}");
    vec![all[0].clone(), all[2].clone()]
}

/// The largest differences from the reference: of embeddings, and of logits and loss. `names`: prefixes of the goldens
/// of image embeddings, prompt embeddings, and logits and loss.
fn differences(folder: &Path, towers: [&str; 2], names: [&str; 3], goldens: &Goldens) -> (f32, f32) {
    let path = folder.with_file_name("bundle");
    export(&Checkpoint::open(folder).unwrap(), &path, "test", Weights::F32, &|| ()).unwrap();
    let (bundle, threads) = (Bundle::open(&path).unwrap(), Threads::default());
    let manifest = bundle.manifest();
    let read = |file| bundle.read(file).unwrap();
    let image = ImageTower::load(&read(&manifest.vision.file), manifest, &threads).unwrap();
    let (onnx, tokenizer) = (read(&manifest.text.file), read(&manifest.tokenizer.file));
    let mut text = TextTower::load(&onnx, &tokenizer, manifest, &threads).unwrap();

    let pixels = vision_towers::pixels(vision_towers::case(towers[0]).size);
    let image_embeds = image.embed_batch(pixels.slice(s![..2, .., .., ..])).unwrap();
    let text_embeds = text.embed_batch(&encodings(towers[1], &text)).unwrap();
    let scoring = manifest.scoring();
    let per_image = scoring.logits_per_image(image_embeds.view(), text_embeds.view());
    let per_text = scoring.logits_per_text(text_embeds.view(), image_embeds.view());
    let loss = Array2::from_elem((1, 1), scoring.loss(per_text.view()).unwrap() as f32);

    let golden = |name: &str, what: &str| goldens.rows(&format!("{name}.{what}"));
    let logits = golden(names[2], "logits_per_image");
    let embedding = worst(image_embeds.view(), &golden(names[0], "image_embeds"));
    let logit = worst(per_image.view(), &logits).max(worst(per_text.t(), &logits));
    (
        embedding.max(worst(text_embeds.view(), &golden(names[1], "text_embeds"))),
        logit.max(worst(loss.view(), &golden(names[2], "loss"))),
    )
}

fn check(pair: &str, (embedding, logit): (f32, f32)) {
    assert!(embedding <= WORST_EMBEDDING, "{pair}: embeddings differ by {embedding}");
    assert!(logit <= WORST_LOGIT, "{pair}: logits or loss differ by {logit}");
}

#[test]
fn every_image_tower_pairs_with_every_text_tower() {
    let goldens = Goldens::read();
    let mut worst = (0.0_f32, 0.0_f32);
    for image in IMAGE_TOWERS {
        for text in TEXT_TOWERS {
            let pair = format!("{image}.{text}");
            let (_guard, folder) = checkpoint([image, text], &goldens, |_, _| ());
            let found = differences(&folder, [image, text], [image, text, &pair], &goldens);
            check(&pair, found);
            worst = (worst.0.max(found.0), worst.1.max(found.1));
        }
    }
    println!("60 pairs: worst difference of embeddings {:.1e}, of logits and loss {:.1e}", worst.0, worst.1);
}

#[test]
fn a_plain_clip_and_a_plain_siglip_are_checkpoints_too() {
    let goldens = Goldens::read();
    for kind in ["clip", "siglip"] {
        let (_guard, folder) = checkpoint([kind, kind], &goldens, |config, weights| {
            config["model_type"] = json!(kind);
            let one = |value: f32| (Dtype::F32, vec![1], value.to_le_bytes().to_vec());
            *weights = std::mem::take(weights)
                .into_iter()
                .filter(|(name, _)| kind == "clip" || !name.contains("projection"))
                .map(|(name, weight)| match name.split_once('.') {
                    Some(("vision_model" | "text_model", inner)) => (inner.to_owned(), weight),
                    _ => (name, weight),
                })
                .collect();
            if kind == "siglip" {
                weights.insert("logit_scale".into(), one(1.75));
                weights.insert("logit_bias".into(), one(-0.625));
            }
        });
        let name = format!("plain_{kind}");
        let found = differences(&folder, [kind, kind], [&name; 3], &goldens);
        println!("{name}: worst difference of embeddings {:.1e}, of logits and loss {:.1e}", found.0, found.1);
        check(&name, found);
    }
}
