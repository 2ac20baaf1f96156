//! User file: users in bulk, one a line, in CSV.
//!
//! Owns its columns. Read as a stream: ten million users never lie in memory as text.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::Table;
use super::file::{
    Complaint, LICENSES, check_domain, licenses, location_in_capitals, taken, unusable_location,
};
use crate::document::{Entry, Mistake, Notes, suggestion};
use crate::mail::{Address, Licenses, Regions, User};

const COLUMNS: [&str; 4] = ["address", "aliases", "preferred_data_location", "licenses"];

/// After so many mistakes or warnings a file has said enough.
const MISTAKES_LIMIT: usize = 100;

/// Reads the file that `entry` names.
pub(super) fn read(entry: &Entry<'_>, path: &Path, regions: &Regions, notes: &Notes, table: &mut Table) {
    let shown = path.display().to_string();
    let opened = File::open(path).and_then(|mut file| {
        expect(&mut file, table)?;
        Ok(file)
    });
    match opened {
        Ok(file) => {
            let mut scribe = Scribe { path, file: &shown, notes, mistakes: 0, warnings: 0 };
            notes.opened(&shown);
            read_from(BufReader::with_capacity(256 * 1024, file), regions, &mut scribe, table);
        }
        Err(error) => {
            entry.mistake(format!("cannot read {}: {error}", path.display()), "a readable CSV file")
        }
    }
}

/// Looks into the file here and there for how many addresses it has, so that the table need not grow many times.
fn expect(file: &mut File, table: &mut Table) -> io::Result<()> {
    const LOOKS: u64 = 16;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(());
    }
    let mut seen = Vec::new();
    for look in 0..LOOKS {
        file.seek(SeekFrom::Start(metadata.len() / LOOKS * look))?;
        file.by_ref().take(16 * 1024).read_to_end(&mut seen)?;
    }
    file.rewind()?;
    let signs = memchr::memchr_iter(b'@', &seen).count() as u64;
    let addresses = (signs * metadata.len()).checked_div(seen.len() as u64).unwrap_or(0);
    table.expect(usize::try_from(addresses).unwrap_or(0), usize::try_from(metadata.len()).unwrap_or(0));
    Ok(())
}

/// Where each column stands in a line of this file.
struct Columns {
    address: usize,
    aliases: Option<usize>,
    location: Option<usize>,
    licenses: Option<usize>,
}

fn read_from(source: impl Read, regions: &Regions, scribe: &mut Scribe<'_>, table: &mut Table) {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .comment(Some(b'#'))
        .has_headers(true)
        .from_reader(source);
    let columns = match reader.headers() {
        Ok(header) => columns(header, scribe),
        Err(error) => {
            scribe.csv_error(&error);
            return;
        }
    };
    let Some(columns) = columns else { return };
    let mut record = csv::StringRecord::new();
    while scribe.mistakes < MISTAKES_LIMIT {
        match reader.read_record(&mut record) {
            Ok(true) => read_user(&record, &columns, regions, scribe, table),
            Ok(false) => break,
            Err(error) => {
                scribe.csv_error(&error);
                if error.is_io_error() {
                    break;
                }
            }
        }
    }
}

fn columns(header: &csv::StringRecord, scribe: &mut Scribe<'_>) -> Option<Columns> {
    let line = header.position();
    let names: Vec<&str> = header.iter().map(|name| name.trim_start_matches('\u{feff}')).collect();
    let place = |column: &str| names.iter().position(|name| *name == column);
    for (at, name) in names.iter().enumerate() {
        if !COLUMNS.contains(name) {
            scribe.mistake(line, name, "unknown column", &suggestion(name, &COLUMNS));
        } else if place(name) != Some(at) {
            scribe.mistake(line, name, "is there twice", "each column once");
        }
    }
    let Some(address) = place("address") else {
        scribe.mistake(line, "address", "is missing", "a header line that names the columns");
        return None;
    };
    Some(Columns {
        address,
        aliases: place("aliases"),
        location: place("preferred_data_location"),
        licenses: place("licenses"),
    })
}

fn read_user(
    record: &csv::StringRecord,
    columns: &Columns,
    regions: &Regions,
    scribe: &mut Scribe<'_>,
    table: &mut Table,
) {
    let line = record.position();
    let field = |column: Option<usize>| column.and_then(|at| record.get(at)).unwrap_or_default();
    let name = field(Some(columns.address));
    let primary = match Address::parse(name) {
        Ok(address) => address,
        Err(error) => {
            let problem = format!("is {name:?}: {error}");
            scribe.mistake(line, "address", &problem, "an address such as \"anna@contoso.com\"");
            return;
        }
    };
    let key = |column: &str| format!("user[{name}].{column}");
    let tenant = match check_domain(table, None, primary.domain(), &primary) {
        Ok(domain) => &domain.tenant,
        Err((problem, expected)) => {
            scribe.mistake(line, &key("address"), &problem, &expected);
            return;
        }
    };
    let mut aliases = Vec::new();
    for text in words(field(columns.aliases)) {
        match Address::parse(text) {
            Ok(alias) => match check_domain(table, Some(tenant), alias.domain(), &alias) {
                Ok(_) => aliases.push(alias),
                Err((problem, expected)) => scribe.mistake(line, &key("aliases"), &problem, &expected),
            },
            Err(error) => {
                let problem = format!("has {text:?}: {error}");
                scribe.mistake(
                    line,
                    &key("aliases"),
                    &problem,
                    "addresses separated by a space, ';', or ',' within quotes",
                );
            }
        }
    }
    let location = field(columns.location);
    if !location.is_empty()
        && let Some((problem, expected)) = unusable_location(location, regions, tenant)
    {
        scribe.warning(line, &key("preferred_data_location"), &problem, &expected);
    }
    let user = User {
        primary,
        preferred_data_location: (!location.is_empty()).then(|| location_in_capitals(location, regions)),
        licenses: held(field(columns.licenses), |word| {
            let problem = format!("has {word:?}");
            scribe.mistake(line, &key("licenses"), &problem, "\"multi-geo\", \"mail\", both, or \"none\"");
        }),
    };
    if table.add_user(&user, &aliases).is_ok() {
        return;
    }
    let own =
        std::iter::once(("address", &user.primary)).chain(aliases.iter().map(|alias| ("aliases", alias)));
    for (column, address) in own.filter(|(_, address)| table.has_address(address)) {
        let (problem, expected): Complaint = taken(address);
        scribe.mistake(line, &key(column), &problem, &expected);
    }
}

/// Both when the field is empty, as when the key is left out; `none` for a user without any.
fn held(field: &str, mut complain: impl FnMut(&str)) -> Licenses {
    if field.is_empty() {
        return Licenses::default();
    }
    let mut held = Vec::new();
    for word in words(field).filter(|word| *word != "none") {
        match LICENSES.iter().find(|(name, _)| *name == word) {
            Some((_, license)) => held.push(*license),
            None => complain(word),
        }
    }
    licenses(&held)
}

fn words(field: &str) -> impl Iterator<Item = &str> {
    field.split([' ', ';', ',']).filter(|word| !word.is_empty())
}

/// Notes what is wrong in one user file, up to a limit.
struct Scribe<'a> {
    path: &'a Path,
    file: &'a str,
    notes: &'a Notes,
    mistakes: usize,
    warnings: usize,
}

impl Scribe<'_> {
    /// The reader's place is before the line feed of a CR LF, before empty lines and comments.
    fn line(&self, place: &csv::Position) -> usize {
        let begins = || -> io::Result<u64> {
            let mut file = File::open(self.path)?;
            file.seek(SeekFrom::Start(place.byte()))?;
            let (mut passed, mut in_comment, mut at_start) = (0, false, true);
            for byte in BufReader::new(file).bytes() {
                match byte? {
                    b'\n' => (passed, in_comment, at_start) = (passed + 1, false, true),
                    b'\r' => (in_comment, at_start) = (false, true),
                    b'#' if at_start => in_comment = true,
                    _ if in_comment => {}
                    _ => break,
                }
            }
            Ok(passed)
        };
        let passed = begins().unwrap_or(0);
        usize::try_from(place.line() + passed).unwrap_or(usize::MAX)
    }

    fn describe(&self, place: Option<&csv::Position>, key: &str, problem: &str, expected: &str) -> Mistake {
        Mistake {
            file: self.file.to_owned(),
            line: place.map(|place| self.line(place)),
            key: key.to_owned(),
            problem: problem.to_owned(),
            expected: expected.to_owned(),
        }
    }

    fn mistake(&mut self, line: Option<&csv::Position>, key: &str, problem: &str, expected: &str) {
        self.mistakes += 1;
        self.notes.mistake(self.describe(line, key, problem, expected));
        if self.mistakes == MISTAKES_LIMIT {
            let enough = format!("{MISTAKES_LIMIT} mistakes so far; the rest of the file was not read");
            self.notes.mistake(self.describe(line, "", &enough, ""));
        }
    }

    fn warning(&mut self, line: Option<&csv::Position>, key: &str, problem: &str, expected: &str) {
        self.warnings += 1;
        if self.warnings < MISTAKES_LIMIT {
            self.notes.warning(self.describe(line, key, problem, expected));
        } else if self.warnings == MISTAKES_LIMIT {
            let enough = "more users like this; `landfall directory check` lists them all";
            self.notes.warning(self.describe(line, "", enough, ""));
        }
    }

    fn csv_error(&mut self, error: &csv::Error) {
        let line = error.position();
        match error.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                let expected = format!("{expected_len} of them, as in the header line");
                self.mistake(line, "", &format!("has {len} columns"), &expected);
            }
            csv::ErrorKind::Utf8 { .. } => self.mistake(line, "", "is not UTF-8", "text in UTF-8"),
            _ => {
                self.mistake(line, "", &format!("cannot be read: {error}"), "lines of comma-separated values")
            }
        }
    }
}
