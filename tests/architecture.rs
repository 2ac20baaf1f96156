//! Architecture: the map in `src/lib.rs` is the dependency rule, and every file says what it owns.
//!
//! Reads the source as text. Line counts are deliberately not checked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every room of `src/lib.rs` by its place in the reading order.
fn order() -> BTreeMap<String, usize> {
    let map = fs::read_to_string(source_root().join("lib.rs")).expect("src/lib.rs is there");
    let rooms = map.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    rooms.enumerate().map(|(place, room)| (room.to_owned(), place)).collect()
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a readable source folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    files
}

/// `src/queue/lane.rs` and `src/queue.rs` both belong to `queue`.
fn room_of(file: &Path) -> String {
    let inside = file.strip_prefix(source_root()).expect("a file below src");
    let first = inside.components().next().expect("a path has a component");
    Path::new(first.as_os_str()).with_extension("").to_string_lossy().into_owned()
}

/// The code without its comments and without what follows `#[cfg(test)] mod`, which ends a file here.
fn shipped(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let opens_tests = line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.starts_with("mod "));
        if opens_tests && lines.peek().is_some_and(|next| next.ends_with('{')) {
            break;
        }
        if !line.trim_start().starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// Every `crate::room` in the code, nested groups such as `use crate::{clock, mail::Region}` too.
fn rooms_used(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => rooms.extend(group_heads(group)),
            None => rooms.push(word(rest)),
        }
    }
    rooms
}

/// The first word of each item of a `{...}` group whose opening brace is already read.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = vec![word(group.trim_start())];
    let mut depth = 1;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => heads.push(word(group[at + 1..].trim_start())),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

#[test]
fn every_file_opens_with_what_it_owns() {
    let silent: Vec<_> = sources(&source_root())
        .into_iter()
        .filter(|file| !fs::read_to_string(file).expect("a readable file").starts_with("//! "))
        .collect();
    assert!(silent.is_empty(), "these open without a `//!` head: {silent:#?}");
}

#[test]
fn imports_point_up() {
    let place = order();
    assert!(place.len() > 10, "src/lib.rs lists its rooms as `pub mod room;`, one a line");
    let mut wrong = Vec::new();
    for file in sources(&source_root()) {
        let room = room_of(&file);
        // main.rs and lib.rs stand outside the order: one is below every room, the other is the map.
        let Some(own) = place.get(&room) else {
            assert!(room == "main" || room == "lib", "{} belongs to no room of src/lib.rs", file.display());
            continue;
        };
        for used in rooms_used(&shipped(&fs::read_to_string(&file).expect("a readable file"))) {
            if used != room && place.get(&used).is_some_and(|there| there > own) {
                wrong
                    .push(format!("{} may not use {used}: src/lib.rs lists it below {room}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_names_every_room_on_its_floor() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ARCHITECTURE.md");
    let page = fs::read_to_string(page).expect("the map is there");
    let floors = page.lines().filter_map(|line| line.trim_start().strip_prefix("FLOOR "));
    let drawn: Vec<&str> = floors.flat_map(|floor| floor.split_whitespace().skip(3)).collect();
    let drawn: Vec<&str> = drawn.into_iter().filter(|word| *word != "·").collect();
    let place = order();
    let mut rooms: Vec<&String> = place.keys().collect();
    rooms.sort_by_key(|room| place[*room]);
    assert_eq!(drawn, rooms, "docs/ARCHITECTURE.md draws the rooms of src/lib.rs, in their order");
    let untold: Vec<_> = rooms.iter().filter(|room| !page.contains(&format!("**{room}**"))).collect();
    assert!(untold.is_empty(), "docs/ARCHITECTURE.md says nothing of {untold:?}");
}

#[test]
fn files_that_the_documents_name_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files: Vec<String> = ["src", "tests", "benches"]
        .iter()
        .flat_map(|folder| sources(&root.join(folder)))
        .map(|file| format!("/{}", file.strip_prefix(root).expect("below it").display()))
        .collect();
    let pages = fs::read_dir(root.join("docs")).expect("the documents");
    let mut missing = Vec::new();
    for page in pages.map(|page| page.expect("readable").path()) {
        let text = fs::read_to_string(&page).expect("text");
        let named = text.split('`').skip(1).step_by(2).filter(|words| words.ends_with(".rs"));
        let gone = named.filter(|name| !files.iter().any(|file| file.ends_with(&format!("/{name}"))));
        missing.extend(gone.map(|name| format!("{}: {name}", page.display())));
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn the_reader_of_imports_sees_groups_and_leaves_tests_out() {
    let code = "use crate::{clock, mail::{Region, Sender}, spool};\nuse crate::dns::Zone;\n// crate::queue\n\
                #[cfg(test)]\nmod tests {\n use crate::daemon; }\n";
    assert_eq!(rooms_used(&shipped(code)), ["clock", "mail", "spool", "dns"]);
}
