//! Packaging: the unit gives up what it can, and the files that the package installs are ones that work.

mod world;

use std::fs;
use std::process::Command;

use world::Edge;

fn packaging(file: &str) -> String {
    format!("{}/packaging/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// systemd's own rating, 10.0 for a process that may do everything.
#[test]
fn the_unit_is_rated_below_two() {
    let rated = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", &packaging("landfall.service")])
        .output()
        .expect("tests/run installs systemd");
    let said = String::from_utf8_lossy(&rated.stdout).into_owned();
    let level = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_default();
    let number = level.rsplit(": ").next().and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    let rating: f32 = number.parse().unwrap_or_else(|_| panic!("no rating in {said}"));
    assert!(rating < 2.0, "{level}");
}

#[test]
fn the_configuration_that_is_installed_has_no_mistakes() {
    let edge = Edge::builder("EUR").offline();
    for file in ["landfall.toml", "directory.toml"] {
        fs::copy(packaging(file), edge.folder().join(file)).expect("our own folder");
    }
    let checked = edge.command(&["config", "check"]);
    assert_eq!(checked.code, 0, "{checked:#?}");
}

#[test]
fn the_packages_changelog_begins_with_this_version() {
    let changelog = fs::read_to_string(packaging("debian/changelog")).expect("in the repository");
    let expected = format!("landfall ({}-", env!("CARGO_PKG_VERSION"));
    assert!(changelog.starts_with(&expected), "{changelog}");
}
