//! Mistake: what is wrong where in a file an operator wrote, and what was expected.
//!
//! Owns the one line that says it, and the collection of all of them.

use std::cell::RefCell;
use std::fmt;

/// One thing to mend: `file:line: key: what is wrong; expected ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub file: String,
    /// From 1; `None` when it is about the file as a whole.
    pub line: Option<usize>,
    /// The dotted path, such as `tenant[contoso].domain[contoso.com].type`; empty when there is none.
    pub key: String,
    pub problem: String,
    /// Empty when the problem says it all.
    pub expected: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.problem)?;
        if !self.expected.is_empty() {
            write!(f, "; expected {}", self.expected)?;
        }
        Ok(())
    }
}

/// All mistakes of a configuration, a line each, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Where readers note mistakes and go on; shared by all files of one configuration.
#[derive(Debug, Default)]
pub struct Notes {
    /// In the order in which they were opened.
    files: RefCell<Vec<String>>,
    mistakes: RefCell<Vec<Mistake>>,
    warnings: RefCell<Vec<Mistake>>,
    /// Every key that a reader has asked for, without indices: what the sample file must show.
    #[cfg(test)]
    pub(crate) asked: RefCell<std::collections::BTreeSet<String>>,
}

impl Notes {
    /// Files speak in the order in which they were opened.
    pub fn opened(&self, file: &str) {
        self.files.borrow_mut().push(file.to_owned());
    }

    pub fn mistake(&self, mistake: Mistake) {
        self.mistakes.borrow_mut().push(mistake);
    }

    /// Worth saying, but no reason not to start.
    pub fn warning(&self, warning: Mistake) {
        self.warnings.borrow_mut().push(warning);
    }

    /// The warnings when there is no mistake; else the mistakes, all of them.
    pub fn verdict(self) -> Result<Vec<Mistake>, Mistakes> {
        let files = self.files.into_inner();
        let mistakes = in_file_order(self.mistakes.into_inner(), &files);
        if mistakes.is_empty() {
            Ok(in_file_order(self.warnings.into_inner(), &files))
        } else {
            Err(Mistakes(mistakes))
        }
    }
}

/// By line within a file, the files in their order.
fn in_file_order(mut mistakes: Vec<Mistake>, files: &[String]) -> Vec<Mistake> {
    let rank = |mistake: &Mistake| files.iter().position(|file| *file == mistake.file);
    mistakes.sort_by_cached_key(|mistake| (rank(mistake), mistake.line));
    mistakes.dedup();
    mistakes
}
