//! Section: one table of a file, asked key by key.
//!
//! Owns which keys were asked for: when a section is done with, every other key in it is a mistake.

use std::cell::RefCell;

use toml::de::{DeTable, DeValue};

use super::entry::Entry;
use super::page::Page;

/// How alike a wrong key must be for it to be suggested.
const NEAR: f64 = 0.7;

/// A table under the walk. Dropping it judges the keys that nobody asked for.
pub struct Section<'p> {
    page: &'p Page<'p>,
    /// Dotted, without a trailing dot; empty at the top.
    path: String,
    /// `None` for a section that was left out: all its defaults hold.
    table: Option<&'p DeTable<'p>>,
    at: usize,
    asked: RefCell<Vec<&'static str>>,
    /// Set when the keys are the operator's own words, such as region codes.
    open: bool,
}

impl<'p> Section<'p> {
    pub(super) fn new(page: &'p Page<'p>, path: String, table: Option<&'p DeTable<'p>>, at: usize) -> Self {
        Self { page, path, table, at, asked: RefCell::new(Vec::new()), open: false }
    }

    /// The value at `key`, if it is there.
    pub fn entry(&self, key: &'static str) -> Option<Entry<'p>> {
        self.asked.borrow_mut().push(key);
        #[cfg(test)]
        self.page.notes.asked.borrow_mut().insert(self.path_without_indices(key));
        let (name, value) = self.table?.get_key_value(key)?;
        Some(Entry::new(self.page, self.path_of(key), name.span().start, value))
    }

    /// The value at `key` as `parse` reads it; absent or wrong: `None`, and wrong is noted.
    pub fn read<T>(&self, key: &'static str, parse: impl FnOnce(&Entry<'p>) -> Option<T>) -> Option<T> {
        parse(&self.entry(key)?)
    }

    /// As `read`, with what holds when the key is left out.
    pub fn read_or<T>(
        &self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&Entry<'p>) -> Option<T>,
    ) -> T {
        self.read(key, parse).unwrap_or(default)
    }

    /// As `read`, for a key that may not be left out.
    pub fn require<T>(
        &self,
        key: &'static str,
        expected: &str,
        parse: impl FnOnce(&Entry<'p>) -> Option<T>,
    ) -> Option<T> {
        match self.entry(key) {
            Some(entry) => parse(&entry),
            None => {
                self.mistake(key, "is missing", expected);
                None
            }
        }
    }

    /// The items of the list at `key`; wrong ones are noted and left out. `None` without the key.
    pub fn list<T>(&self, key: &'static str, parse: impl Fn(&Entry<'p>) -> Option<T>) -> Option<Vec<T>> {
        let items = self.entry(key)?.items().unwrap_or_default();
        Some(items.iter().filter_map(parse).collect())
    }

    /// The table at `key`; an empty one when it is left out, so that all defaults are read in one place.
    pub fn section(&self, key: &'static str) -> Section<'p> {
        self.entry(key)
            .and_then(|entry| entry.section())
            .unwrap_or_else(|| Section::new(self.page, self.path_of(key), None, self.at))
    }

    /// The tables of the array at `key` (`[[key]]`); each is named by its `name_key`, else by number.
    pub fn sections(&self, key: &'static str, name_key: &str) -> Vec<Section<'p>> {
        let Some(items) = self.entry(key).and_then(|entry| entry.items()) else { return Vec::new() };
        let named = |item: &Entry<'p>| {
            let name = item.value().as_table().and_then(|table| table.get(name_key));
            let name = name.and_then(|name| name.get_ref().as_str()).filter(|name| !name.is_empty());
            name.map(|name| format!("{}[{name}]", self.path_of(key)))
        };
        let renamed = items.into_iter().map(|item| match named(&item) {
            Some(path) => item.renamed(path),
            None => item,
        });
        renamed.filter_map(|item| item.section()).collect()
    }

    /// Every entry, when the keys are the operator's own words.
    pub fn entries(&mut self) -> Vec<(&'p str, Entry<'p>)> {
        self.open = true;
        let mut entries: Vec<_> = self
            .table
            .into_iter()
            .flatten()
            .map(|(name, value)| {
                let key: &str = name.get_ref();
                (key, Entry::new(self.page, self.path_of(key), name.span().start, value))
            })
            .collect();
        entries.sort_by_key(|(_, entry)| entry.line());
        entries
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Whether `key` is there and is no empty list; its items may be wrong all the same.
    pub fn has_items(&self, key: &str) -> bool {
        let value = self.table.and_then(|table| table.get(key)).map(|value| value.get_ref());
        value.is_some_and(|value| value.as_array().is_none_or(|items| !items.is_empty()))
    }

    /// Notes a list that has to name something and does not.
    pub fn refuse_empty(&self, key: &str, expected: &str) {
        if !self.has(key) {
            self.mistake(key, "is missing", expected);
        } else if !self.has_items(key) {
            self.mistake(key, "is empty", expected);
        }
    }

    /// Notes what is wrong with `key`: at its line when it is there, else at the section's.
    pub fn mistake(&self, key: &str, problem: impl Into<String>, expected: impl Into<String>) {
        self.page.mistake(self.place_of(key), &self.path_of(key), problem.into(), expected.into());
    }

    /// As `mistake`, when it is no reason not to start.
    pub fn warning(&self, key: &str, problem: impl Into<String>, expected: impl Into<String>) {
        let (problem, expected) = (problem.into(), expected.into());
        let warning = self.page.describe(self.place_of(key), &self.path_of(key), problem, expected);
        self.page.notes.warning(warning);
    }

    fn place_of(&self, key: &str) -> usize {
        self.table.and_then(|table| table.get_key_value(key)).map_or(self.at, |(name, _)| name.span().start)
    }

    fn path_of(&self, key: &str) -> String {
        match (self.path.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (false, true) => self.path.clone(),
            (false, false) => format!("{}.{key}", self.path),
        }
    }

    #[cfg(test)]
    fn path_without_indices(&self, key: &str) -> String {
        let mut depth = 0;
        let mut path = self.path_of(key);
        path.retain(|c| {
            depth += usize::from(c == '[');
            let kept = depth == 0;
            depth -= usize::from(c == ']' && depth > 0);
            kept
        });
        path
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        if self.open {
            return;
        }
        let asked = self.asked.borrow();
        for (name, _) in self.table.into_iter().flatten() {
            let key: &str = name.get_ref();
            if !asked.contains(&key) {
                let at = name.span().start;
                self.page.mistake(at, &self.path_of(key), "unknown key".to_owned(), suggestion(key, &asked));
            }
        }
    }
}

/// The near one when there is one, else all that would have been known.
pub fn suggestion(key: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|name| (strsim::jaro_winkler(&key.to_ascii_lowercase(), name), *name))
        .max_by(|one, two| one.0.total_cmp(&two.0))
        .filter(|(likeness, _)| *likeness >= NEAR);
    match near {
        Some((_, name)) => format!("\"{name}\" (did you mean it?)"),
        None => {
            let mut known = known.to_vec();
            known.sort_unstable();
            known.dedup();
            one_of(&known)
        }
    }
}

/// `"a", "b" or "c"`.
pub(super) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        None => "no key here".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// What a value is, in an operator's words.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Notes;

    /// What is noted while `walk` reads `text`.
    fn told(text: &str, walk: impl FnOnce(&Section<'_>)) -> String {
        let notes = Notes::default();
        if let Some(page) = Page::open("a.toml", text, &notes) {
            walk(&page.top());
        }
        notes.verdict().err().map_or_else(String::new, |mistakes| mistakes.to_string())
    }

    #[test]
    fn every_mistake_has_its_line_and_path() {
        let text = "title = 'x'\r\n\r\n[[pot]]\r\nname = \"one\"\r\nsize = 1\r\n\r\n[[pot]]\r\n\
                    sizes = [\r\n  1,\r\n  true,\r\n]\r\nlid = { color = 'red' }\r\nlid.shape = 3\r\n";
        let text = text.replace("lid.shape = 3\r\n", "[pot.handle]\r\nshape = 3\r\n");
        let told = told(&text, |top| {
            top.read("title", Entry::flag);
            for pot in top.sections("pot", "name") {
                pot.read("name", Entry::text);
                pot.require("size", "its size", |entry| entry.integer(2..=3));
                pot.list("sizes", |entry| entry.integer(0..=9));
                pot.section("lid").read("colour", Entry::text);
                pot.section("handle").read("shape", Entry::text);
            }
        });
        assert_eq!(
            told,
            "a.toml:1: title: is \"x\"; expected true or false\n\
             a.toml:5: pot[one].size: is 1, out of range; expected an integer from 2 to 3\n\
             a.toml:7: pot[1].size: is missing; expected its size\n\
             a.toml:10: pot[1].sizes[1]: is the boolean true; expected an integer from 0 to 9\n\
             a.toml:12: pot[1].lid.color: unknown key; expected \"colour\" (did you mean it?)\n\
             a.toml:14: pot[1].handle.shape: is the integer 3; expected a text in quotes"
        );
    }

    #[test]
    fn an_unknown_key_suggests_the_near_one_or_all() {
        for (key, known, expected) in [
            ("adress", ["address", "name"].as_slice(), "\"address\" (did you mean it?)"),
            ("Address", &["address", "name"], "\"address\" (did you mean it?)"),
            ("store_mode", &["store", "relay"], "\"store\" (did you mean it?)"),
            ("zebra", &["name", "address"], "\"address\" or \"name\""),
            ("zebra", &[], "no key here"),
        ] {
            assert_eq!(suggestion(key, known), expected, "{key}");
        }
    }

    #[test]
    fn a_broken_file_is_told_its_syntax_alone() {
        let told = told("a = \n[b\nc = 1\nc = 2\n", |top| {
            top.require("missing", "something", Entry::text);
        });
        assert!(told.starts_with("a.toml:1: "), "{told}");
        assert!(!told.contains("missing;"), "{told}");
        assert!(told.lines().count() > 1, "all of it at once: {told}");
    }
}
