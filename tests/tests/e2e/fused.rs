//! Fused towers against tract on the same file, and against themselves with other threads and other kernels.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::Path;

use model_prep::checkpoint::Checkpoint;
use model_prep::export::export;
use prost::Message as _;
use spotter_engine::bundle::{Bundle, Manifest, Weights};
use spotter_engine::tower::{ImageTower, TextTower, Threads};
use tract_onnx::pb;

/// A bundle's files in memory.
struct Parts {
    manifest: Manifest,
    vision: Vec<u8>,
    text: Vec<u8>,
    tokenizer: Vec<u8>,
}

impl Parts {
    fn read(bundle: &Path) -> Self {
        let read = |file: &str| std::fs::read(bundle.join(file)).unwrap();
        Self {
            manifest: Bundle::open(bundle).unwrap().manifest().clone(),
            vision: read("vision.onnx"),
            text: read("text.onnx"),
            tokenizer: read("tokenizer.json"),
        }
    }

    /// The demo checkpoint exported with these weights.
    fn demo(weights: Weights) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("bundle");
        let checkpoint = Checkpoint::open(&e2e::root().join("model-prep/demo/checkpoint")).unwrap();
        export(&checkpoint, &out, "test", weights, &|| ()).unwrap();
        Self::read(&out)
    }

    fn image(&self, threads: &Threads) -> ImageTower {
        ImageTower::load(&self.vision, &self.manifest, threads).unwrap()
    }

    fn text(&self, threads: &Threads) -> TextTower {
        TextTower::load(&self.text, &self.tokenizer, &self.manifest, threads).unwrap()
    }

    /// Embeddings of some images and prompts.
    fn embeddings(&self, threads: &Threads) -> Vec<Vec<f32>> {
        let (image, mut text) = (self.image(threads), self.text(threads));
        let pictures = (0..3).map(|seed| image.embed(&self.pixels(seed)).unwrap());
        let mut embeddings: Vec<_> = pictures.collect();
        for prompt in ["cat", "a photo of a red bicycle leaning against a wall", &"many words ".repeat(80)] {
            embeddings.push(text.embed(prompt).unwrap());
        }
        embeddings
    }

    /// Smooth stripes and some noise, between about -2 and 2.
    fn pixels(&self, seed: usize) -> Vec<f32> {
        let [height, width] = self.manifest.image_size();
        let value = |i: usize| {
            let (row, column) = (i / width, i % width);
            let stripes = ((row * (seed + 1)) as f32 * 0.21).sin() + (column as f32 * 0.13).cos();
            stripes + ((i * 7919 + seed * 104_729) % 1000) as f32 / 1000.0 - 0.5
        };
        (0..3 * height * width).map(value).collect()
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn kernels(name: &str) -> Threads {
    Threads::default().with_kernels(name).unwrap()
}

#[test]
fn a_fused_float_tower_computes_what_tract_computes() {
    let parts = Parts::demo(Weights::F32);
    let expected = parts.embeddings(&kernels("tract"));
    for name in Threads::available_kernels() {
        for (found, expected) in parts.embeddings(&kernels(name)).iter().zip(&expected) {
            let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 2e-6, "{name}: off by {worst}");
        }
    }
}

/// Instruction sets with fused multiply-add agree nearly to the last bit. `scalar`, which has none, rounds differently,
/// and activations halfway between two integers then become the other one: embeddings differ as much as int8 differs
/// from float.
#[test]
fn instruction_sets_agree() {
    for (weights, scalar_min) in [(Weights::Int8, 0.999), (Weights::F32, 1.0 - 1e-5)] {
        let parts = Parts::demo(weights);
        let scalar = parts.embeddings(&kernels("scalar"));
        let names: Vec<_> = Threads::available_kernels().into_iter().filter(|name| *name != "scalar").collect();
        let fused: Vec<_> = names.iter().map(|name| parts.embeddings(&kernels(name))).collect();
        for (name, embeddings) in names.iter().zip(&fused) {
            for (index, found) in embeddings.iter().enumerate() {
                let (first, scalar) = (cosine(found, &fused[0][index]), cosine(found, &scalar[index]));
                assert!(first >= 1.0 - 1e-5, "{weights:?}: {} and {name}: cosine {first}", names[0]);
                assert!(scalar >= scalar_min, "{weights:?}: scalar and {name}: cosine {scalar}");
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for weights in [Weights::Int8, Weights::F32] {
        let parts = Parts::demo(weights);
        let expected = parts.embeddings(&Threads::default());
        for count in [1, 2, 3, 5, 8] {
            let threads = Threads::new(count).unwrap();
            assert_eq!(threads.count(), count);
            for run in 0..3 {
                assert!(parts.embeddings(&threads) == expected, "{weights:?}: {count} threads, run {run}");
            }
        }
    }
}

#[test]
fn towers_that_share_threads_do_not_disturb_each_other() {
    let parts = Parts::demo(Weights::Int8);
    let threads = Threads::new(2).unwrap();
    let expected = parts.embeddings(&threads);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert!(parts.embeddings(&threads) == expected);
                }
            });
        }
    });
}

/// The graph with an operator that the fused form does not know, and that changes nothing, after every node called
/// `after`.
fn with_maximum(onnx: &[u8], after: &str) -> Vec<u8> {
    let mut model = pb::ModelProto::decode(onnx).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let node = graph.node.iter().position(|node| node.output == [after]).unwrap();
    let maximum = format!("{after}.maximum");
    for input in graph.node.iter_mut().flat_map(|node| &mut node.input).filter(|input| *input == after) {
        *input = maximum.clone();
    }
    let operator = pb::NodeProto {
        op_type: "Max".into(),
        name: maximum.clone(),
        input: vec![after.to_owned()],
        output: vec![maximum],
        ..Default::default()
    };
    graph.node.insert(node + 1, operator);
    model.encode_to_vec()
}

#[test]
fn a_graph_with_an_unknown_operator_is_left_to_tract_and_the_operator_is_named() {
    let mut parts = Parts::demo(Weights::F32);
    let expected = parts.embeddings(&Threads::default());
    parts.vision = with_maximum(&parts.vision, "vision_model.embeddings");
    parts.text = with_maximum(&parts.text, "text_model.embeddings.sum");
    for (found, expected) in parts.embeddings(&Threads::new(2).unwrap()).iter().zip(&expected) {
        let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 2e-6, "off by {worst}");
    }
    let profile = parts.image(&Threads::default()).profile(&parts.pixels(0), &|| 0).unwrap();
    let why = profile.unfused.unwrap();
    assert!(why.starts_with("Max vision_model.embeddings.maximum: "), "{why}");
    assert!(profile.layers.iter().any(|layer| layer.kind == "Softmax"));
}

#[test]
fn a_profile_names_every_step() {
    let parts = Parts::demo(Weights::Int8);
    let ticks = std::sync::atomic::AtomicU64::new(0);
    let clock = || ticks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let profile = parts.image(&Threads::default()).profile(&parts.pixels(0), &clock).unwrap();
    assert_eq!(profile.unfused, None);
    for kind in ["patch embedding", "layer norm", "linear", "attention", "linear + residual", "linear + activation"] {
        assert!(profile.layers.iter().any(|layer| layer.kind == kind), "{kind}: {profile:?}");
    }
    assert!(profile.layers.iter().all(|layer| layer.time_ns > 0), "{profile:?}");
}

/// Every node loses each of its inputs in turn, or gets another value instead: one of them each, since layers are alike.
#[test]
fn a_nonsensical_graph_is_an_error_or_left_to_tract() {
    let parts = Parts::demo(Weights::Int8);
    let original = pb::ModelProto::decode(&*parts.vision).unwrap();
    let nodes = &original.graph.as_ref().unwrap().node;
    // The first layer, and everything after the last.
    for (index, node) in nodes.iter().enumerate().filter(|(index, _)| *index < 45 || *index + 12 > nodes.len()) {
        for input in 0..node.input.len() {
            let others = [None, Some("pixel_values"), Some("vision_model.embeddings.cls_token"), Some("index_0")];
            let mut model = original.clone();
            let inputs = &mut model.graph.as_mut().unwrap().node[index].input;
            match others[(index + input) % others.len()] {
                Some(other) => inputs[input] = other.to_owned(),
                None => inputs.truncate(input),
            }
            // A wrong graph must result in an error; tract may accept one that is not wrong.
            if let Ok(tower) = ImageTower::load(&model.encode_to_vec(), &parts.manifest, &Threads::default()) {
                let _ = tower.embed(&parts.pixels(0));
            }
        }
    }
}
