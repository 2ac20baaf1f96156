//! Page: one TOML file and where its lines begin.
//!
//! Owns syntax errors; what the keys mean is asked through its `Section`s.

use toml::Spanned;
use toml::de::DeTable;

use super::{Mistake, Notes, Section};

/// A file as read. Opens only when the syntax holds: a broken tree would blame the wrong keys.
pub struct Page<'t> {
    file: String,
    line_starts: Vec<usize>,
    pub(super) notes: &'t Notes,
    tree: Spanned<DeTable<'t>>,
}

impl<'t> Page<'t> {
    /// Reads `text`; `file` is what mistakes call it. Notes all syntax errors.
    pub fn open(file: &str, text: &'t str, notes: &'t Notes) -> Option<Self> {
        let line_starts =
            std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect();
        notes.opened(file);
        let (tree, errors) = DeTable::parse_recoverable(text);
        let page = Self { file: file.to_owned(), line_starts, notes, tree };
        for error in &errors {
            let line = error.span().map(|span| page.line(span.start));
            let message = error.message().trim().replace('\n', ", ");
            let (problem, expected) = message.split_once(", expected ").unwrap_or((&message, ""));
            let is_twin = problem == "duplicate key";
            let key = error.span().filter(|_| is_twin).and_then(|span| text.get(span)).unwrap_or_default();
            notes.mistake(Mistake {
                file: page.file.clone(),
                line,
                key: key.to_owned(),
                problem: problem.to_owned(),
                expected: if is_twin { "each key once" } else { expected }.to_owned(),
            });
        }
        errors.is_empty().then_some(page)
    }

    /// The top of the file.
    pub fn top(&self) -> Section<'_> {
        Section::new(self, String::new(), Some(self.tree.get_ref()), 0)
    }

    /// From 1, as editors count.
    pub(super) fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at)
    }

    pub(super) fn mistake(&self, at: usize, key: &str, problem: String, expected: String) {
        self.notes.mistake(self.describe(at, key, problem, expected));
    }

    pub(super) fn describe(&self, at: usize, key: &str, problem: String, expected: String) -> Mistake {
        Mistake { file: self.file.clone(), line: Some(self.line(at)), key: key.to_owned(), problem, expected }
    }
}
