//! `spotter bench` for one tower by itself.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::Write as _;
use std::process::{Output, Stdio};

use spotter_engine::tower::{ImageTower, TextTower, Threads};

use crate::harness::Place;

/// Runs `spotter bench` with `input` on its standard input.
fn bench(arguments: &str, environment: &[(&str, &str)], input: &[u8]) -> Output {
    let place = Place::new();
    let mut command = place.spotter(&format!("bench {arguments}"));
    command.envs(environment.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn printed(arguments: &str, environment: &[(&str, &str)]) -> String {
    let done = bench(arguments, environment, b"");
    assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn steps_are_explained() {
    for tower in ["image", "text"] {
        let text = printed(&format!("--explain --tower {tower}"), &[]);
        assert!(text.starts_with("fused, kernels "), "{text}");
        for step in ["linear + residual", "linear + activation", "attention", "layer norm"] {
            assert!(text.contains(step), "{step}: {text}");
        }
    }
    let text = printed("--explain", &[("SPOTTER_KERNELS", "tract")]);
    assert!(text.starts_with("not fused, run by tract node by node, because of the request"), "{text}");
    assert!(text.contains("DequantizeLinear"), "{text}");
}

#[test]
fn the_roofline_shows_a_share_of_the_peak() {
    let text = printed("--roofline", &[("SPOTTER_KERNELS", "scalar")]);
    assert!(text.starts_with("kernels scalar, one thread\npeak: "), "{text}");
    let all = text.lines().last().unwrap();
    let share: f64 = all.trim_end_matches(" %").rsplit(' ').next().unwrap().parse().unwrap();
    assert!(all.starts_with("all ") && share > 0.0, "{text}");
}

#[test]
fn unknown_kernels_are_named() {
    let done = bench("--explain", &[("SPOTTER_KERNELS", "sse9")], b"");
    let error = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{error}");
    assert!(error.contains("SPOTTER_KERNELS") && error.contains("\"sse9\"") && error.contains("scalar"), "{error}");
}

#[test]
fn passes_are_timed_on_request() {
    let done = bench("--tower text --stdin --threads 2", &[], b"3\n1\n");
    let text = String::from_utf8(done.stdout).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!((&lines[0]["ready"], &lines[0]["threads"]), (&true.into(), &2.into()));
    assert!(lines[0]["load_ms"].as_f64().unwrap() > 0.0 && lines[0]["file_bytes"].as_u64().unwrap() > 1_000_000);
    assert_eq!(lines[1]["ms"].as_array().unwrap().len(), 3);
    assert_eq!(lines[2]["ms"].as_array().unwrap().len(), 1);
}

#[test]
fn embeddings_equal_those_of_the_library() {
    let bundle = spotter::bundles::demo::bundle().unwrap();
    let [height, width] = bundle.manifest().image_size();
    let pixels: Vec<f32> = (0..3 * height * width).map(|i| (i % 97) as f32 / 48.0 - 1.0).collect();
    let bytes: Vec<u8> = pixels.iter().flat_map(|value| value.to_le_bytes()).collect();
    let expected = ImageTower::open(&bundle, &Threads::default()).unwrap().embed(&pixels).unwrap();
    let expected: Vec<u8> = expected.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert!(
        bench("--tower image --embed", &[], &[&bytes[..], &bytes[..]].concat()).stdout == [&expected[..]; 2].concat()
    );

    let done = bench("--tower image --embed", &[], &bytes[..bytes.len() - 4]);
    assert_eq!(done.status.code(), Some(1));

    let expected = TextTower::open(&bundle, &Threads::default()).unwrap().embed("a red bird").unwrap();
    let done = bench("--tower text --embed", &[], b"a red bird\n");
    assert_eq!(serde_json::from_slice::<Vec<f32>>(&done.stdout).unwrap(), expected);
}
