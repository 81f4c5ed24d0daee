//! A view that shows nothing makes states unknown: on photographs, degraded step by step, and on a running camera.
//!
//! `SPOTTER_DATA` names a folder with `flickr8k-96-val.zip`.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::Cursor;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use image::imageops::blur;
use image::{DynamicImage, RgbImage};
use spotter_engine::picture::{Picture, decode};
use spotter_engine::view::{Flaw, View, Viewer};

use crate::harness::{DEADLINE, Line, Place, Running, drawn, label_toml};

/// Every how many photographs one is looked at.
const EVERY: usize = 4;

fn view(viewer: &mut Viewer, image: &RgbImage) -> View {
    let (width, height) = (image.width() as usize, image.height() as usize);
    viewer.measure(&Picture { width, height, rgb: image.as_raw().clone(), transparent: None })
}

fn scaled(image: &RgbImage, factor: f32, offset: f32) -> RgbImage {
    let mut image = image.clone();
    image.iter_mut().for_each(|value| *value = (f32::from(*value) * factor + offset).round().clamp(0.0, 255.0) as u8);
    image
}

/// Degrades a photograph.
type Degrade = Box<dyn Fn(&RgbImage) -> RgbImage>;

#[test]
fn photographs_are_judged_until_they_are_degraded_far() {
    let Some(data) = std::env::var_os("SPOTTER_DATA").map(PathBuf::from) else {
        println!("SKIPPED: SPOTTER_DATA names no folder with flickr8k-96-val.zip");
        return;
    };
    let Some(python) = e2e::python(&["zipfile"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut unzip = Command::new(python);
    unzip.args(["-m", "zipfile", "-e"]).arg(data.join("flickr8k-96-val.zip")).arg(folder.path());
    assert!(unzip.status().unwrap().success());
    let mut files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let photographs: Vec<RgbImage> = files
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "webp"))
        .step_by(EVERY)
        .map(|file| {
            let Picture { width, height, rgb, .. } = decode(&std::fs::read(file).unwrap()).unwrap();
            RgbImage::from_raw(width as u32, height as u32, rgb).unwrap()
        })
        .collect();
    assert!(photographs.len() >= 100, "{}", photographs.len());
    let out_of_focus = |share: f32| -> Degrade { Box::new(move |image| blur(image, share * image.height() as f32)) };
    let dimmed = |factor: f32| -> Degrade { Box::new(move |image| scaled(image, factor, 0.0)) };
    let covered: Degrade = Box::new(|image| scaled(&blur(image, 0.25 * image.height() as f32), 0.3, 40.0));
    let mut viewer = Viewer::default();
    // The flaw, and between which shares of the photographs have it.
    for (what, degrade, flaw, least, most) in [
        ("as they are", dimmed(1.0), None, 1.0, 1.0),
        ("at 0.3 of the light", dimmed(0.3), None, 1.0, 1.0),
        ("at 0.1 of the light", dimmed(0.1), Some(Flaw::Dark), 0.3, 0.9),
        ("at 0.05 of the light", dimmed(0.05), Some(Flaw::Dark), 1.0, 1.0),
        ("in fog", Box::new(|image: &RgbImage| scaled(image, 0.3, 150.0)), None, 1.0, 1.0),
        ("blurred by 1%", out_of_focus(0.01), None, 1.0, 1.0),
        ("blurred by 2%", out_of_focus(0.02), None, 0.98, 1.0),
        ("blurred by 4%", out_of_focus(0.04), Some(Flaw::Blurred), 0.3, 0.8),
        ("blurred by 7%", out_of_focus(0.07), Some(Flaw::Blurred), 0.9, 1.0),
        ("covered", covered, Some(Flaw::Covered), 1.0, 1.0),
    ] {
        let found = photographs.iter().filter(|image| view(&mut viewer, &degrade(image)).flaw() == flaw).count();
        let share = found as f64 / photographs.len() as f64;
        println!("{what}: {found} of {} photographs: {flaw:?}", photographs.len());
        assert!((least..=most).contains(&share), "{what}: {share:.3} have {flaw:?}, expected {least} to {most}");
    }
}

/// Reads lines until one has this view; returns it.
fn until(program: &Running, view: Option<&str>) -> Line {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < DEADLINE, "not {view:?}: {:?} {}", program.events(), program.stderr());
        let line = program.next().unwrap_or_else(|| panic!("ended: {}", program.stderr()));
        let is_decided = line.states.as_ref().unwrap()[0].label.is_some() || line.view.is_some();
        if line.view.as_deref() == view && is_decided {
            return line;
        }
    }
}

#[test]
fn states_are_unknown_while_the_view_shows_nothing() {
    let place = Place::new();
    let question = "[[question]]\nname = \"what\"\nsmooth_s = 0\n[[question.label]]\nname = \"something\"\nthreshold = 0.001\n\
                    for_s = 0\nopposites = [\"nothing\"]\n";
    let more = |view: &str| format!("{}{question}{view}", label_toml(&[]));
    let labels = place.write("labels.toml", more(""));
    let show = |image: &RgbImage| {
        let mut jpeg = Cursor::new(Vec::new());
        DynamicImage::from(image.clone()).write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
        place.write("next.jpg", jpeg.into_inner());
        std::fs::rename(place.at("next.jpg"), place.at("picture.jpg")).unwrap();
    };
    let scene = drawn(0);
    show(&scene);
    place.write("camera.sh", "while :; do cat picture.jpg; sleep 0.1; done");
    let mut command = place.spotter("run --output json --source");
    let program = Running::start(command.arg("exec:sh camera.sh").arg("--labels").arg(&labels));
    until(&program, None);
    for (what, image) in
        [("dark", scaled(&scene, 0.02, 0.0)), ("covered", scaled(&scene, 0.0, 200.0)), ("blurred", blur(&scene, 9.0))]
    {
        show(&image);
        let line = until(&program, Some(what));
        let state = &line.states.as_ref().unwrap()[0];
        assert_eq!((state.label.as_deref(), state.reason.as_deref()), (None, Some(what)), "{state:?}");
        assert_eq!(state.last.as_deref(), Some("something"), "{state:?}");
        show(&scene);
        until(&program, None);
    }
    // A still picture is a frozen view, if that is asked for; and a dark one is judged if that is.
    place.write("labels.toml", more("[view]\nfrozen_s = 1\n"));
    until(&program, Some("frozen"));
    place.write("labels.toml", more("[view]\nignore = [\"frozen\", \"dark\"]\n"));
    until(&program, None);
    show(&scaled(&scene, 0.02, 0.0));
    for _ in 0..20 {
        assert_eq!(program.next().unwrap().view, None);
    }
    let told: Vec<_> = program.events().iter().map(|event| event.event.clone()).collect();
    let expected = ["view_lost", "view_back"].repeat(4);
    assert_eq!(told, expected, "{:?}", program.events());
    let ended = program
        .decisions()
        .iter()
        .filter(|told| told.event == "end")
        .map(|told| told.reason.clone().unwrap())
        .collect::<Vec<_>>();
    assert_eq!(ended, ["dark", "covered", "blurred", "frozen"]);
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));
}
