//! Kills at any moment, standing for power cuts: the state is always complete.

use std::process::Stdio;
use std::time::Duration;

use super::*;

/// Pseudorandom numbers, the same in every run.
struct Spread(u64);

impl Spread {
    /// From 0 to below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Every slot is complete, and the active one exists.
fn check_whole(place: &Place, what: &str) -> Listing {
    let listing = Listing::of(place);
    for row in &listing.slots {
        assert!(row.problem.is_none(), "{what}: {row:?}");
        if row.slot != "built-in" {
            let archive = place.state().join("bundles").join(&row.slot).join("bundle.tar");
            Bundle::open(&archive).unwrap().verify().unwrap();
        }
    }
    assert!(listing.slots.iter().any(|row| row.slot == listing.active), "{what}: {listing:?}");
    listing
}

#[test]
fn a_kill_at_any_moment_leaves_the_old_or_the_new_state() {
    const KILLS: usize = 80;
    let place = prepared();
    check(&place, "install a.tar --activate", 0, "");
    // The time of an undisturbed run, from which the moments of the kills are drawn.
    let start = Instant::now();
    check(&place, "install b.tar --activate", 0, "");
    let mut within = u64::try_from(start.elapsed().as_micros()).unwrap();
    let commands = [
        "bundle install c.tar --activate",
        "bundle activate a",
        "bundle activate b",
        "bundle rollback",
        "bundle remove c",
        "run --output json --frames 1 --labels labels.toml --source test://shapes?size=64x64",
        "bundle install c.tar",
        "bundle activate built-in",
        "bundle remove b",
        "bundle install b.tar --activate",
    ];
    let (mut spread, mut killed, mut changed, mut asides) = (Spread(5), 0, 0, 0);
    let mut before = check_whole(&place, "at first");
    for kill in 0..KILLS {
        let command = commands[kill % commands.len()];
        let mut child = place.spotter(command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(spread.below(within)));
        child.kill().unwrap();
        let in_time = child.wait().unwrap().code().is_none();
        killed += usize::from(in_time);
        // Other load on the machine comes and goes: about every second kill should come in time.
        within = if in_time { within * 5 / 4 } else { within * 4 / 5 }.max(1000);
        let what = format!("kill {kill} of `{command}`");
        let after = check_whole(&place, &what);
        changed += usize::from(after.active != before.active || after.names() != before.names());
        let left = fs::read_dir(place.state().join("bundles")).unwrap();
        asides +=
            left.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".aside")).count();
        assert_eq!(after.failed, None, "{what}");
        if command.starts_with("run") {
            // Killed twice in a row, the bundle would count as one that crashes the program.
            run_once(&place);
        }
        before = after;
    }
    println!("{KILLS} kills, {killed} in time, {changed} changes got through, {asides} leftovers seen");
    assert!(killed >= KILLS / 4, "most came too late: {killed}");
    // The next installation removes remains, and everything works.
    check(&place, "install a.tar --name last --activate", 0, "last is active now");
    assert_eq!(classifying(&place), "a");
    assert_eq!(bundle_of(&lines(&run_once(&place))[0]), "a");
    let names: Vec<String> = fs::read_dir(place.state().join("bundles"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!names.iter().any(|name| name.starts_with(".aside")), "{names:?}");
}

#[test]
fn many_commands_at_once_leave_a_complete_state() {
    let place = prepared();
    for name in ["a", "b", "c"] {
        check(&place, &format!("install {name}.tar"), 0, "");
    }
    let children: Vec<_> = ["activate a", "activate b", "install a.tar --name d", "rollback", "activate c", "remove d"]
        .iter()
        .map(|command| {
            place.spotter(&format!("bundle {command}")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(matches!(child.wait().unwrap().code(), Some(0 | 1)));
    }
    let listing = check_whole(&place, "six at once");
    assert!(listing.names().starts_with(&["a", "b", "c"]), "{listing:?}");
    run_once(&place);
}
