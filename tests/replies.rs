//! `docs/REPLIES.md` is what the catalogue says. `LANDFALL_WRITE_DOCS=1 cargo test --test replies` writes it.

use landfall::smtp::reply;

#[test]
fn the_page_of_replies_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/REPLIES.md");
    let page = reply::document();
    if std::env::var_os("LANDFALL_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).expect("docs/REPLIES.md can be written");
    }
    let written = std::fs::read_to_string(path).expect("docs/REPLIES.md exists");
    assert!(written == page, "docs/REPLIES.md is not what the catalogue says; see the head of this test");
}

/// Whoever meets a refusal finds its cause and its mend in `docs/ERRORS.md`.
#[test]
fn every_refusal_is_explained() {
    let page = include_str!("../docs/ERRORS.md");
    let missing: Vec<&str> = reply::catalogue()
        .filter(|entry| entry.code >= 400 && !page.contains(&format!("`{}`", entry.label)))
        .map(|entry| entry.label)
        .collect();
    assert!(missing.is_empty(), "docs/ERRORS.md says nothing of {missing:?}");
}
