//! A bundle whose towers are valid ones with changes, or arbitrary bytes.

use std::path::Path;
use std::sync::LazyLock;

use model_prep::checkpoint::Checkpoint;
use model_prep::export::export;
use prost::Message as _;
use spotter_engine::bundle::{self, Bundle, Contents, FileEntry, Manifest, Weights};
use spotter_engine::tower::{ImageTower, TextTower, Threads, TowerError};
use tract_onnx::pb;

use super::with_files;

/// The first byte of an input.
const IS_INT8: u8 = 1;
const IS_TEXT: u8 = 2;
const BY_TRACT: u8 = 4;
/// The rest is a tower, not a list of changes.
const IS_WHOLE: u8 = 8;

/// Bytes of one change.
const EDIT_BYTES: usize = 5;

/// More changes leave nothing of a tower, and could make it too large to run.
const EDITS_MAX: usize = 4;

/// Values that numbers are changed into. With four changes, those in the middle make no tensor larger than some 100 MB.
const VALUES: [i64; 16] = [0, 1, -1, 2, -2, 3, 4, 5, 7, 8, 16, 17, 32, 64, i64::MAX, i64::MIN];

/// Operators that nodes are changed into.
const OPERATORS: [&str; 16] = [
    "Identity",
    "Add",
    "MatMul",
    "Gemm",
    "Conv",
    "Reshape",
    "Transpose",
    "Gather",
    "Slice",
    "Concat",
    "Softmax",
    "Where",
    "Unsqueeze",
    "ReduceMean",
    "Shape",
    "Loop",
];

/// A valid bundle of the tiny checkpoint.
struct Sound {
    manifest: Manifest,
    vision: Vec<u8>,
    text: Vec<u8>,
    tokenizer: Vec<u8>,
}

static FLOAT: LazyLock<Sound> = LazyLock::new(|| sound(Weights::F32));
static INT8: LazyLock<Sound> = LazyLock::new(|| sound(Weights::Int8));

fn sound(weights: Weights) -> Sound {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let checkpoint = above.map(|folder| folder.join("tests/golden/tiny/checkpoint")).find(|folder| folder.is_dir());
    let checkpoint = Checkpoint::open(&checkpoint.expect("the repository")).expect("the tiny checkpoint");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bundle");
    export(&checkpoint, &path, "tiny", weights, &|| ()).expect("a bundle is written");
    let bundle = Bundle::open(&path).expect("it is sound");
    let read = |file: &FileEntry| bundle.read(file).expect("its files are sound").into_owned();
    let manifest = bundle.manifest().clone();
    let (vision, text) = (read(&manifest.vision.file), read(&manifest.text.file));
    let tokenizer = read(&manifest.tokenizer.file);
    Sound { manifest, vision, text, tokenizer }
}

/// A bundle with an arbitrary tower: it is refused, or opened and run.
pub fn towers(bytes: &[u8]) {
    let Some((&flags, rest)) = bytes.split_first() else { return };
    let has = |flag: u8| flags & flag != 0;
    let sound = if has(IS_INT8) { &*INT8 } else { &*FLOAT };
    let before = if has(IS_TEXT) { &sound.text } else { &sound.vision };
    let edits: &[[u8; EDIT_BYTES]] = if has(IS_WHOLE) { &[] } else { rest.as_chunks().0 };
    let tower = if has(IS_WHOLE) { rest.to_vec() } else { edited(before, edits) };
    let (vision, text) = if has(IS_TEXT) { (&sound.vision, &tower) } else { (&tower, &sound.text) };
    let contents = Contents { vision, text, tokenizer: &sound.tokenizer, model_card: b"# Tiny\n" };
    let mut threads = Threads::default();
    if has(BY_TRACT) {
        threads = threads.with_kernels("tract").expect("tract is there everywhere");
    }
    with_files([], |folder| {
        let path = folder.join("bundle");
        bundle::write(&path, sound.manifest.clone(), &contents).expect("a bundle is written");
        let bundle = Bundle::open(&path).expect("its manifest is sound");
        let result = if has(IS_TEXT) { run_text(&bundle, &threads) } else { run_image(&bundle, &threads) };
        match result {
            Ok(embedding) => {
                assert_eq!(embedding.len(), bundle.manifest().projection_dim);
                assert!(embedding.iter().all(|value| value.is_finite()), "{embedding:?}");
            }
            Err(error) => {
                let text = error.to_string();
                // tract does not run everything that runs fused.
                assert!(!edits.is_empty() || has(IS_WHOLE | BY_TRACT), "a sound tower: {text}");
            }
        }
    });
}

fn run_image(bundle: &Bundle, threads: &Threads) -> Result<Vec<f32>, TowerError> {
    let tower = ImageTower::open(bundle, threads)?;
    let [height, width] = bundle.manifest().image_size();
    tower.embed(&vec![0.5; 3 * height * width])
}

fn run_text(bundle: &Bundle, threads: &Threads) -> Result<Vec<f32>, TowerError> {
    TextTower::open(bundle, threads)?.embed("a photo of a red circle")
}

/// The tower with these changes.
fn edited(onnx: &[u8], edits: &[[u8; EDIT_BYTES]]) -> Vec<u8> {
    let mut model = pb::ModelProto::decode(onnx).expect("a sound tower");
    if let Some(graph) = &mut model.graph {
        edits.iter().take(EDITS_MAX).for_each(|edit| change(graph, *edit));
    }
    model.encode_to_vec()
}

/// One change: of what, at which index, at which index within that, into what.
fn change(graph: &mut pb::GraphProto, [what, low, high, within, into]: [u8; EDIT_BYTES]) {
    let at = usize::from(u16::from_le_bytes([low, high]));
    let value = VALUES[usize::from(into) % VALUES.len()];
    match what % 16 {
        0..8 => change_nodes(graph, what % 8, at, within, into),
        8 => {
            if let Some(attribute) =
                chosen(&mut graph.node, at).and_then(|node| chosen(&mut node.attribute, within.into()))
            {
                attribute.i = value;
                attribute.f = value as f32;
                attribute.ints.iter_mut().for_each(|own| *own = value);
            }
        }
        9 => graph.initializer.truncate(at % graph.initializer.len().max(1)),
        10 => {
            let names = [chosen(&mut graph.input, at), chosen(&mut graph.output, at)];
            if let Some(named) = names.into_iter().flatten().nth(usize::from(within) % 2) {
                named.name = into.to_string();
            }
        }
        _ => {
            if let Some(constant) = chosen(&mut graph.initializer, at) {
                change_constant(constant, what % 16, within, value);
            }
        }
    }
}

fn change_nodes(graph: &mut pb::GraphProto, what: u8, at: usize, within: u8, into: u8) {
    let count = graph.node.len().max(1);
    let other = graph.node.get(usize::from(into) % count).and_then(|node| node.output.first()).cloned();
    let Some(node) = chosen(&mut graph.node, at) else { return };
    match what {
        0 => {
            graph.node.remove(at % count);
        }
        1 => {
            let node = node.clone();
            graph.node.insert(usize::from(into) % count, node);
        }
        2 => graph.node.swap(at % count, usize::from(into) % count),
        3 => node.op_type = OPERATORS[usize::from(into) % OPERATORS.len()].to_owned(),
        4 => {
            if let (Some(input), Some(other)) = (chosen(&mut node.input, within.into()), other) {
                *input = other;
            }
        }
        5 => node.input.truncate(usize::from(within) % 3),
        6 => node.output.truncate(usize::from(within) % 2),
        _ => node.attribute.truncate(usize::from(within) % 2),
    }
}

fn change_constant(constant: &mut pb::TensorProto, what: u8, within: u8, value: i64) {
    match what {
        11 => {
            if let Some(extent) = chosen(&mut constant.dims, within.into()) {
                *extent = value;
            }
        }
        12 => constant.dims.push(value),
        // Shapes, axes and starts of slices are such numbers.
        13 => {
            let numbers = constant.raw_data.as_chunks_mut::<8>().0;
            if let Some(number) = chosen(numbers, within.into()) {
                *number = value.to_le_bytes();
            }
        }
        14 => constant.raw_data.truncate(within.into()),
        _ => constant.data_type = within.into(),
    }
}

/// One of them, if there is any.
fn chosen<T>(all: &mut [T], at: usize) -> Option<&mut T> {
    let count = all.len().max(1);
    all.get_mut(at % count)
}
