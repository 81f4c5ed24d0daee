use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::sensors::Cpu;
use super::*;

/// A fake board made of files.
struct Board(TempDir);

impl Board {
    fn new(files: &[(&str, &str)]) -> Self {
        let board = Self(tempfile::tempdir().expect("a folder"));
        files.iter().for_each(|(path, text)| board.set(path, text));
        board
    }

    fn set(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    fn root(&self) -> &Path {
        self.0.path()
    }
}

const PI_ZONE: &str = "sys/class/thermal/thermal_zone0/temp";
const PI_FLAGS: &str = "sys/devices/platform/soc/soc:firmware/get_throttled";

/// A Pi has only one trip point, at which it shuts down.
fn pi() -> Board {
    Board::new(&[
        ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
        (PI_ZONE, "48312\n"),
        ("sys/class/thermal/thermal_zone0/trip_point_0_type", "critical\n"),
        ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "110000\n"),
        (PI_FLAGS, "0\n"),
    ])
}

const PI5_FLAGS: &str = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled";

/// A Pi 5, whose flags have another path.
fn pi5() -> Board {
    Board::new(&[
        ("sys/firmware/devicetree/base/model", "Raspberry Pi 5 Model B Rev 1.0\0"),
        ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
        (PI_ZONE, "52300\n"),
        ("sys/class/thermal/thermal_zone0/trip_point_0_type", "critical\n"),
        ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "110000\n"),
        ("sys/class/thermal/thermal_zone0/trip_point_1_type", "active\n"),
        ("sys/class/thermal/thermal_zone0/trip_point_1_temp", "50000\n"),
        ("sys/devices/platform/axi/uevent", ""),
        ("sys/devices/platform/soc@107c000000/107c280000.nvram/uevent", ""),
        (PI5_FLAGS, "0\n"),
    ])
}

const PI_VOLTAGE: &str = "sys/class/hwmon/hwmon1/in0_lcrit_alarm";

/// A Pi with a kernel without the throttling flags.
fn pi_of_another_kernel() -> Board {
    Board::new(&[
        ("sys/firmware/devicetree/base/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
        ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
        (PI_ZONE, "48312\n"),
        ("sys/devices/platform/soc/soc:firmware/uevent", ""),
        ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"),
        ("sys/class/hwmon/hwmon0/in0_lcrit_alarm", "1\n"),
        ("sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
        (PI_VOLTAGE, "0\n"),
    ])
}

fn jetson() -> Board {
    Board::new(&[
        ("sys/class/thermal/thermal_zone0/type", "CPU-therm\n"),
        ("sys/class/thermal/thermal_zone0/temp", "40500\n"),
        ("sys/class/thermal/thermal_zone0/trip_point_0_type", "critical\n"),
        ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "104500\n"),
        ("sys/class/thermal/thermal_zone0/trip_point_1_type", "passive\n"),
        ("sys/class/thermal/thermal_zone0/trip_point_1_temp", "99000\n"),
        ("sys/class/thermal/thermal_zone1/type", "PMIC-Die\n"),
        ("sys/class/thermal/thermal_zone1/temp", "150000\n"),
    ])
}

fn limits(board: &Board, given: Option<f32>) -> Vec<(String, f32)> {
    let readings = Sensors::find(board.root(), given).read(Instant::now());
    readings.zones.into_iter().map(|zone| (zone.name, zone.limit_c)).collect()
}

#[test]
fn limits_come_from_the_board() {
    let cpu = |limit: f32| vec![("cpu-thermal".to_owned(), limit)];
    assert_eq!(limits(&pi(), None), cpu(75.0));
    assert_eq!(limits(&pi(), Some(60.0)), cpu(60.0));
    assert_eq!(limits(&pi5(), None), cpu(75.0));
    assert_eq!(limits(&pi_of_another_kernel(), None), cpu(75.0));
    assert_eq!(limits(&jetson(), None), [("CPU-therm".to_owned(), 94.0)]);
    // A PC whose sensors do not tell when they throttle is left alone.
    let pc = Board::new(&[
        ("sys/class/thermal/thermal_zone0/type", "x86_pkg_temp\n"),
        ("sys/class/thermal/thermal_zone0/temp", "91000\n"),
        ("sys/class/thermal/thermal_zone0/trip_point_0_type", "passive\n"),
        ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "0\n"),
    ]);
    assert_eq!(limits(&pc, None), []);
    assert_eq!(limits(&pc, Some(80.0)), [("x86_pkg_temp".to_owned(), 80.0)]);
    assert_eq!(limits(&Board::new(&[]), None), []);
}

#[test]
fn invalid_readings_are_left_out() {
    let board = pi();
    let mut sensors = Sensors::find(board.root(), None);
    board.set(PI_ZONE, "hot\n");
    board.set(PI_FLAGS, "maybe\n");
    assert_eq!(sensors.read(Instant::now()), Readings::default());
    fs::remove_file(board.root().join(PI_ZONE)).expect("a file");
    assert_eq!(sensors.read(Instant::now()), Readings::default());
}

#[test]
fn the_flags_of_a_pi_are_read() {
    let board = pi();
    let mut sensors = Sensors::find(board.root(), None);
    for (text, flags, why) in [
        ("0\n", 0, None),
        // Past events do not count.
        ("50000\n", 0x50000, None),
        ("0x50005\n", 0x50005, Some("it is throttled")),
        ("80008\n", 0x80008, Some("it is too hot")),
        ("50001", 0x50001, Some("its supply voltage is too low")),
        ("2", 2, Some("its clock is capped")),
    ] {
        board.set(PI_FLAGS, text);
        let readings = sensors.read(Instant::now());
        assert_eq!(readings.throttled, Some(flags), "{text}");
        assert_eq!(sensors::throttling(flags), why, "{text}");
        assert_eq!(matches!(need(&readings), Need::Less(_)), why.is_some(), "{text}");
    }
}

#[test]
fn every_pi_is_read() {
    for (board, file, bad) in [(pi5(), PI5_FLAGS, "50005\n"), (pi_of_another_kernel(), PI_VOLTAGE, "1\n")] {
        let mut sensors = Sensors::find(board.root(), None);
        assert_eq!(need(&sensors.read(Instant::now())), Need::More, "{file}");
        board.set(file, bad);
        assert!(matches!(need(&sensors.read(Instant::now())), Need::Less(_)), "{file}");
        board.set(file, "0\n");
        board.set(PI_ZONE, "76000\n");
        let need = need(&sensors.read(Instant::now()));
        assert_eq!(need, Need::Less("cpu-thermal is at 76 °C, limit 75 °C".to_owned()), "{file}");
    }
    // With the firmware's flags nothing else is read.
    let board = pi();
    board.set("sys/class/hwmon/hwmon0/name", "rpi_volt\n");
    board.set("sys/class/hwmon/hwmon0/in0_lcrit_alarm", "1\n");
    let readings = Sensors::find(board.root(), None).read(Instant::now());
    assert_eq!((readings.throttled, readings.low_voltage), (Some(0), None));
}

const OUTER: &str = "sys/fs/cgroup/system.slice/cpu.max";
const OWN: &str = "sys/fs/cgroup/system.slice/spotter.service/cpu.max";
const STAT: &str = "sys/fs/cgroup/system.slice/spotter.service/cpu.stat";

/// A service in a control group.
fn service() -> Board {
    Board::new(&[
        ("proc/self/cgroup", "0::/system.slice/spotter.service\n"),
        (OUTER, "max 100000\n"),
        (OWN, "max 100000\n"),
        (STAT, "usage_usec 0\nuser_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n"),
        ("sys/fs/cgroup/system.slice/cpu.stat", "usage_usec 0\nnr_throttled 0\n"),
    ])
}

#[test]
fn the_tightest_quota_of_all_groups_counts() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let board = service();
    let mut sensors = Sensors::find(board.root(), None);
    assert_eq!(sensors.read(at(0)).cpu, None);
    board.set(OWN, "150000 100000\n");
    assert_eq!(sensors.read(at(2)).cpu, None, "nothing to compare with yet");
    board.set(STAT, "usage_usec 1500000\nnr_throttled 0\n");
    assert_eq!(sensors.read(at(4)).cpu, Some(Cpu { quota_cores: 1.5, share: 0.5, is_throttled: false }));
    board.set(STAT, "usage_usec 3000000\nnr_throttled 3\n");
    assert_eq!(sensors.read(at(6)).cpu, Some(Cpu { quota_cores: 1.5, share: 0.5, is_throttled: true }));
    // A tighter quota of an outer group counts from the second reading on.
    board.set(OUTER, "50000 100000\n");
    assert_eq!(sensors.read(at(8)).cpu, None);
    board.set("sys/fs/cgroup/system.slice/cpu.stat", "usage_usec 900000\nnr_throttled 0\n");
    assert_eq!(sensors.read(at(10)).cpu, Some(Cpu { quota_cores: 0.5, share: 0.9, is_throttled: false }));
    board.set("proc/self/cgroup", "4:cpu,cpuacct:/user.slice\n");
    assert_eq!(Sensors::find(board.root(), None).read(at(0)).cpu, None);
}

#[test]
fn quotas_of_split_hierarchies_count_too() {
    // A system that also mounts the unified hierarchy.
    let cgroup =
        "5:memory:/x\n4:cpu,cpuacct:/docker/abc\n3:cpuset:/\n1:name=systemd:/x\n0::/system.slice/docker.service\n";
    for folder in ["cpu,cpuacct", "cpu"] {
        let board = Board::new(&[("proc/self/cgroup", cgroup)]);
        let set =
            |group: &str, file: &str, text: &str| board.set(&format!("sys/fs/cgroup/{folder}{group}/{file}"), text);
        for group in ["", "/docker", "/docker/abc"] {
            set(group, "cpu.cfs_period_us", "100000\n");
            set(group, "cpu.cfs_quota_us", "-1\n");
            set(group, "cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n");
            set(group, "cpuacct.usage", "0\n");
        }
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut sensors = Sensors::find(board.root(), None);
        assert_eq!(sensors.read(at(0)).cpu, None, "no quota");
        set("/docker/abc", "cpu.cfs_quota_us", "50000\n");
        assert_eq!(sensors.read(at(2)).cpu, None, "nothing to compare with yet");
        set("/docker/abc", "cpuacct.usage", "500000000\n");
        set("/docker/abc", "cpu.stat", "nr_periods 20\nnr_throttled 1\nthrottled_time 5\n");
        assert_eq!(sensors.read(at(4)).cpu, Some(Cpu { quota_cores: 0.5, share: 0.5, is_throttled: true }), "{folder}");
    }
}

/// A simulated loop under a governor, with its own clock: `hz` frames a second without a limit.
struct Simulation {
    governor: Governor,
    now: Instant,
    frames: f64,
    hz: f32,
    messages: Vec<String>,
}

impl Simulation {
    fn new(board: &Board, rate: Rate, hz: f32) -> Self {
        let governor = Governor::new(&rate, Some(Sensors::find(board.root(), None)));
        Self { governor, now: Instant::now(), frames: 0.0, hz, messages: Vec::new() }
    }

    fn rate(&self) -> f32 {
        self.governor.limit_hz().map_or(self.hz, |limit| limit.min(self.hz))
    }

    /// Advances the time; the board changes with it.
    fn pass(&mut self, seconds: u32, mut board: impl FnMut(f32)) {
        for _ in 0..seconds * 10 {
            self.messages.extend(self.governor.update(self.now, self.frames as u64));
            self.now += Duration::from_millis(100);
            self.frames += f64::from(self.rate()) / 10.0;
            board(self.rate());
        }
    }
}

#[test]
fn a_hot_board_is_slowed_down_in_steps_and_sped_up_again() {
    let board = pi();
    let mut simulation = Simulation::new(&board, Rate::default(), 20.0);
    simulation.pass(30, |_| ());
    assert_eq!(simulation.messages, [""; 0], "no message for a cool board");
    board.set(PI_ZONE, "76000\n");
    simulation.pass(3, |_| ());
    assert_eq!(simulation.messages, ["at most 15.0 frames/s: cpu-thermal is at 76 °C, limit 75 °C"]);
    assert_eq!(simulation.governor.reason(), Some("cpu-thermal is at 76 °C, limit 75 °C"));
    simulation.pass(20, |_| ());
    assert!(simulation.messages.len() == 4 && simulation.rate() < 7.0, "{:?}", simulation.messages);
    // Neither hot nor cool.
    board.set(PI_ZONE, "72000\n");
    let rate = simulation.rate();
    simulation.pass(120, |_| ());
    assert_eq!(simulation.rate(), rate);
    board.set(PI_ZONE, "70000\n");
    simulation.pass(19, |_| ());
    assert_eq!(simulation.rate(), rate, "not yet");
    simulation.pass(5, |_| ());
    assert!(simulation.rate() > rate);
    simulation.pass(100, |_| ());
    assert_eq!(simulation.messages.last().map(String::as_str), Some("no longer limited"));
    assert_eq!((simulation.governor.limit_hz(), simulation.governor.reason()), (None, None));
}

#[test]
fn the_rate_settles_before_the_board_throttles() {
    // Heats up to 45 °C above the room at full rate, with a time constant of 40 s; throttles at 80 °C.
    for (room_c, full_hz, throttled_ever) in [(25.0, 10.0, false), (38.0, 10.0, false), (45.0, 30.0, false)] {
        let board = pi();
        let mut simulation = Simulation::new(&board, Rate::default(), full_hz);
        let (mut celsius, mut hottest, mut written) = (room_c, room_c, 0);
        simulation.pass(1200, |hz| {
            let aim = room_c + 45.0 * hz / full_hz;
            celsius += (aim - celsius) * 0.1 / 40.0;
            hottest = f32::max(hottest, celsius);
            // A sensor's resolution, so that not each of 12,000 steps writes a file.
            if (celsius * 5.0) as i32 != written {
                written = (celsius * 5.0) as i32;
                board.set(PI_ZONE, &format!("{}\n", (celsius * 1000.0) as i32));
            }
        });
        let (changes, rate) = (simulation.messages.len(), simulation.rate());
        println!(
            "room {room_c} °C: {hottest:.1} °C at most, {changes} changes in 20 min, {rate:.1} of {full_hz} frames/s"
        );
        assert_eq!(hottest >= 80.0, throttled_ever, "{hottest}");
        assert!(rate >= full_hz / 3.0, "slower than need be: {rate}");
        assert!(changes <= 60, "{changes} changes");
        assert_eq!(changes == 0, room_c < 30.0);
    }
}

#[test]
fn the_rate_follows_the_quota_both_ways() {
    let board = service();
    let mut simulation = Simulation::new(&board, Rate::default(), 10.0);
    let mut used = 0.0;
    // A frame costs a tenth of a second of CPU time.
    let mut at_quota = |simulation: &mut Simulation, seconds: u32| {
        simulation.pass(seconds, |hz| {
            used += f64::from(hz) * 0.1 / 10.0 * 1e6;
            board.set(STAT, &format!("usage_usec {}\nnr_throttled 0\n", used as u64));
        });
    };
    at_quota(&mut simulation, 30);
    assert_eq!(simulation.governor.limit_hz(), None, "without a quota there is no limit");
    board.set(OWN, "60000 100000\n");
    at_quota(&mut simulation, 60);
    let rate = simulation.rate();
    assert!((3.0..=5.7).contains(&rate), "6 frames a second would use all of it: {rate}, {:?}", simulation.messages);
    assert!(simulation.messages[0].contains("of the CPU quota of 0.60 cores is used"), "{:?}", simulation.messages);
    board.set(OWN, "200000 100000\n");
    at_quota(&mut simulation, 120);
    assert_eq!(simulation.governor.limit_hz(), None, "{:?}", simulation.messages);
}

#[test]
fn the_rate_never_falls_below_the_minimum() {
    let board = pi();
    let rate = Rate { max_fps: 5.0, min_fps: 2.0, ..Rate::default() };
    let mut simulation = Simulation::new(&board, rate, 30.0);
    assert_eq!(simulation.rate(), 5.0);
    board.set(PI_FLAGS, "4\n");
    simulation.pass(300, |_| ());
    assert_eq!(simulation.rate(), 2.0);
    assert_eq!(simulation.messages[0], "at most 3.8 frames/s: the board's firmware throttles the CPU: it is throttled");
    board.set(PI_FLAGS, "40000\n");
    simulation.pass(300, |_| ());
    assert_eq!(simulation.rate(), 5.0, "never more than configured");
}

#[test]
fn without_sensors_only_the_configured_limit_counts() {
    let mut governor = Governor::new(&Rate::default(), None);
    let now = Instant::now();
    assert_eq!((governor.update(now, 0), governor.limit_hz(), governor.pause(now)), (None, None, None));
}

#[test]
fn frames_come_at_the_configured_rate() {
    // The first frame of the camera after the pause is taken.
    for (camera_hz, max_fps) in [(30.0, 20.0), (30.0, 7.0), (30.0, 30.0), (30.0, 1.0), (200.0, 0.5)] {
        let mut governor = Governor::new(&Rate { max_fps, ..Rate::default() }, None);
        let start = Instant::now();
        let mut taken = 0;
        let seconds = 60.0;
        for number in 0..(camera_hz * seconds) as u32 {
            let now = start + Duration::from_secs_f32(number as f32 / camera_hz);
            if governor.pause(now).is_none() {
                governor.began(now);
                taken += 1;
            }
        }
        let expected = max_fps * seconds;
        assert!((taken as f32 - expected).abs() <= 0.02 * expected + 1.0, "{camera_hz}, {max_fps}: {taken}");
    }
}
