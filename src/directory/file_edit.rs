//! File edit: one value in a directory file or a user file, everything else left as it was.
//!
//! Comments, order and spacing stay; the file is replaced whole or not at all. One edit at a time: who edits
//! holds a lock on the file.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, RawString, TableLike, Value};

use super::register::Move;
use super::rewrite::rewrite;
use crate::mail::{Address, Domain, Region};

/// For files that are new; these never are.
const MODE: u32 = 0o640;
const LOCATION: &str = "preferred_data_location";

pub(super) fn set_mail_flow_region(path: &Path, change: &Move) -> Result<(), String> {
    let _lock = lock(path)?;
    let mut document = open(path)?;
    let edited = each(&mut document.toml, "domain", |domain| {
        let name = domain.get("name").and_then(Item::as_str).and_then(|name| Domain::parse(name).ok());
        if name.as_ref() != Some(&change.domain) {
            return false;
        }
        put(domain, "mail_flow_region", change.to.map(|region| region.as_str().into()));
        put(domain, "previous_mail_flow_region", change.from.map(|region| region.as_str().into()));
        put(domain, "mail_flow_region_changed_at", Some(change.at.to_string().into()));
        true
    });
    if !edited {
        return Err(format!("{} has no domain \"{}\"", path.display(), change.domain));
    }
    save(path, &document)
}

pub(super) fn set_preferred_data_location(
    path: &Path,
    primary: &Address,
    location: Option<Region>,
) -> Result<(), String> {
    let _lock = lock(path)?;
    let mut document = open(path)?;
    let edited = each(&mut document.toml, "user", |user| {
        let address = user.get("address").and_then(Item::as_str).and_then(|text| Address::parse(text).ok());
        let is_asked = address.as_ref() == Some(primary);
        if is_asked {
            put(user, LOCATION, location.map(|region| region.as_str().into()));
        }
        is_asked
    });
    if edited {
        return save(path, &document);
    }
    for file in user_files(path, &document.toml) {
        if edit_user_file(&file, primary, location).map_err(|error| format!("{}: {error}", file.display()))? {
            return Ok(());
        }
    }
    Err(format!("no file of the directory has the user \"{primary}\""))
}

/// Until it is dropped nobody else edits. Waits for whoever does.
fn lock(path: &Path) -> Result<File, String> {
    let lock = || -> io::Result<File> {
        loop {
            let file = File::open(path)?;
            file.lock()?;
            // Whoever held it before has put another file in its place.
            if fs::metadata(path)?.ino() == file.metadata()?.ino() {
                return Ok(file);
            }
        }
    };
    lock().map_err(|error| format!("{}: {error}", path.display()))
}

/// A directory file, and what of it a TOML document does not keep.
struct Document {
    toml: DocumentMut,
    byte_order_mark: bool,
    /// Every line ends in CR LF.
    crlf: bool,
}

const BYTE_ORDER_MARK: char = '\u{feff}';

fn open(path: &Path) -> Result<Document, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let crlf = text.contains("\r\n") && text.matches('\n').count() == text.matches("\r\n").count();
    let toml = text.parse().map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Document { toml, byte_order_mark: text.starts_with(BYTE_ORDER_MARK), crlf })
}

fn save(path: &Path, document: &Document) -> Result<(), String> {
    let mut text = document.toml.to_string();
    if document.crlf {
        text = text.replace("\r\n", "\n").replace('\n', "\r\n");
    }
    if document.byte_order_mark && !text.starts_with(BYTE_ORDER_MARK) {
        text.insert(0, BYTE_ORDER_MARK);
    }
    rewrite(path, MODE, |out| out.write_all(text.as_bytes()))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Shows every `[[tenant.<kind>]]` to `edit` until one was the right one.
fn each(document: &mut DocumentMut, kind: &str, mut edit: impl FnMut(&mut dyn TableLike) -> bool) -> bool {
    let Some(tenants) = document.get_mut("tenant") else { return false };
    tables(tenants).into_iter().any(|tenant| {
        let Some(items) = tenant.get_mut(kind) else { return false };
        tables(items).into_iter().any(&mut edit)
    })
}

/// The tables of a list, in whichever way it is written.
fn tables(item: &mut Item) -> Vec<&mut dyn TableLike> {
    match item {
        Item::ArrayOfTables(tables) => tables.iter_mut().map(|table| table as &mut dyn TableLike).collect(),
        Item::Value(Value::Array(items)) => items
            .iter_mut()
            .filter_map(Value::as_inline_table_mut)
            .map(|table| table as &mut dyn TableLike)
            .collect(),
        Item::None | Item::Table(_) | Item::Value(_) => Vec::new(),
    }
}

/// Sets or takes away a key; what stands around the value that was there, a comment behind it, stays.
fn put(table: &mut dyn TableLike, key: &str, value: Option<Value>) {
    let Some(mut value) = value else {
        take(table, key);
        return;
    };
    match table.get_mut(key) {
        Some(Item::Value(old)) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        Some(_) | None => {
            table.insert(key, Item::Value(value));
        }
    }
}

/// The comments above and behind a key stay without it: above the next one, else below the last one.
fn take(table: &mut dyn TableLike, key: &str) {
    let raw = |text: Option<&RawString>| text.and_then(RawString::as_str).unwrap_or_default().to_owned();
    let mut comments = raw(table.key(key).and_then(|key| key.leaf_decor().prefix()));
    let behind = raw(table.get(key).and_then(Item::as_value).and_then(|value| value.decor().suffix()));
    if behind.contains('#') {
        comments.push_str(behind.trim());
        comments.push('\n');
    }
    let keys: Vec<String> = table.iter().map(|(name, _)| name.to_owned()).collect();
    table.remove(key);
    if !comments.contains('#') {
        return;
    }
    let at = keys.iter().position(|name| name == key).unwrap_or(keys.len());
    if let Some(mut next) = keys.get(at + 1).and_then(|next| table.key_mut(next)) {
        let decor = next.leaf_decor_mut();
        decor.set_prefix(comments + &raw(decor.prefix()));
    } else if let Some(Item::Value(last)) =
        at.checked_sub(1).and_then(|before| table.get_mut(keys[before].as_str()))
    {
        let decor = last.decor_mut();
        decor.set_suffix(format!("{}\n{}", raw(decor.suffix()), comments.trim_end()));
    }
}

fn user_files(path: &Path, document: &DocumentMut) -> Vec<PathBuf> {
    let base = path.parent().unwrap_or(Path::new(""));
    let mut item = document.get("user_file").cloned().unwrap_or_default();
    let tables = tables(&mut item);
    let paths = tables.iter().filter_map(|table| table.get("path").and_then(Item::as_str));
    paths.map(|path| base.join(path)).collect()
}

/// Whether the user was there. Only its line changes; a file without the column gets one.
fn edit_user_file(path: &Path, primary: &Address, location: Option<Region>) -> io::Result<bool> {
    let place = Csv::open(path)?.find(primary)?;
    let Some((row, column)) = place else { return Ok(false) };
    let code = location.map_or_else(String::new, |region| region.as_str().to_owned());
    match column {
        Some(column) => {
            let (start, end) = row.place_of(path, column)?;
            splice(path, &[(start, end, code)])?;
        }
        None => {
            let mut csv = Csv::open(path)?;
            let header = csv.header_end()?;
            let mut edits = vec![(header, header, format!(",{LOCATION}"))];
            while let Some(other) = csv.next()? {
                let value = if other.start == row.start { code.as_str() } else { "" };
                edits.push((other.end, other.end, format!(",{value}")));
            }
            splice(path, &edits)?;
        }
    }
    Ok(true)
}

/// Copies the file with each `start..end` replaced, in their order.
fn splice(path: &Path, edits: &[(u64, u64, String)]) -> io::Result<()> {
    let mut old = BufReader::with_capacity(256 * 1024, File::open(path)?);
    rewrite(path, MODE, |out| {
        let mut at = 0;
        for (start, end, text) in edits {
            io::copy(&mut (&mut old).take(start - at), out)?;
            out.write_all(text.as_bytes())?;
            old.seek_relative(i64::try_from(end - start).map_err(io::Error::other)?)?;
            at = *end;
        }
        io::copy(&mut old, out).map(drop)
    })
}

/// A user file, line by line, with the place of each.
struct Csv {
    reader: csv::Reader<BufReader<File>>,
    file: File,
    record: csv::StringRecord,
}

struct Row {
    start: u64,
    /// Before the line's end.
    end: u64,
    fields: Vec<String>,
}

impl Row {
    /// Where a field's own words stand, without the spaces and quotes around them.
    fn place_of(&self, path: &Path, column: usize) -> io::Result<(u64, u64)> {
        let mut line = Vec::new();
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(self.start))?;
        file.take(self.end - self.start).read_to_end(&mut line)?;
        let (mut quoted, mut commas, mut offset) = (false, 0, 0);
        for (at, byte) in line.iter().enumerate() {
            quoted ^= *byte == b'"';
            if *byte == b',' && !quoted {
                commas += 1;
                if commas > column {
                    line.truncate(at);
                    break;
                }
                offset = at + 1;
            }
        }
        let field = &line[offset..];
        // RFC 4180 has no escape but the doubled quote, and a location has neither.
        let around = |byte: &u8| matches!(byte, b' ' | b'\t' | b'"');
        let (before, behind) = match field.iter().position(|byte| !around(byte)) {
            Some(before) => (before, field.iter().rev().take_while(|byte| around(byte)).count()),
            // An empty pair of quotes keeps one on each side.
            None => (field.len() / 2, field.len() - field.len() / 2),
        };
        Ok((self.start + (offset + before) as u64, self.start + (offset + field.len() - behind) as u64))
    }
}

impl Csv {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let reader = csv::ReaderBuilder::new()
            .comment(Some(b'#'))
            .flexible(true)
            .from_reader(BufReader::with_capacity(256 * 1024, file.try_clone()?));
        // Two handles of one file share their place; this one is opened anew.
        Ok(Self { reader, file: File::open(path)?, record: csv::StringRecord::new() })
    }

    fn next(&mut self) -> io::Result<Option<Row>> {
        if !self.reader.read_record(&mut self.record)? {
            return Ok(None);
        }
        let end = self.reader.position().byte();
        let start = self.after_comments(self.record.position().map_or(0, csv::Position::byte), end)?;
        let end = self.before_line_end(start, end)?;
        Ok(Some(Row { start, end, fields: self.record.iter().map(str::to_owned).collect() }))
    }

    fn header_end(&mut self) -> io::Result<u64> {
        self.reader.headers()?;
        self.before_line_end(0, self.reader.position().byte())
    }

    /// The reader counts what it passes over, empty lines and comments, to the line that follows.
    fn after_comments(&mut self, start: u64, end: u64) -> io::Result<u64> {
        let mut passed = Vec::new();
        self.file.seek(SeekFrom::Start(start))?;
        (&mut self.file).take(end - start).read_to_end(&mut passed)?;
        let mut at = 0;
        loop {
            at += passed[at..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if passed.get(at) != Some(&b'#') {
                return Ok(start + at as u64);
            }
            at += passed[at..].iter().take_while(|byte| !matches!(byte, b'\r' | b'\n')).count();
        }
    }

    /// Lines may end in CR LF, and the last in nothing.
    fn before_line_end(&mut self, start: u64, end: u64) -> io::Result<u64> {
        let mut tail = Vec::new();
        let from = end.saturating_sub(2).max(start);
        self.file.seek(SeekFrom::Start(from))?;
        (&mut self.file).take(end - from).read_to_end(&mut tail)?;
        let kept = tail.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
        Ok(from + kept as u64)
    }

    /// The user's line, and where in it the location stands.
    fn find(mut self, primary: &Address) -> io::Result<Option<(Row, Option<usize>)>> {
        let header = self.reader.headers()?.clone();
        let place = |column: &str| {
            header.iter().position(|name| name.trim().trim_start_matches('\u{feff}').trim() == column)
        };
        let Some(address) = place("address") else { return Ok(None) };
        while let Some(row) = self.next()? {
            let text = row.fields.get(address).map(|text| text.trim()).unwrap_or_default();
            if Address::parse(text).ok().as_ref() == Some(primary) {
                return Ok(Some((row, place(LOCATION))));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn address(text: &str) -> Address {
        Address::parse(text).expect("an address")
    }

    fn region(code: &str) -> Region {
        Region::parse(code).expect("a code")
    }

    #[test]
    fn one_value_changes_and_all_else_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("directory.toml");
        let before = "# ours\n[[tenant]]\nid = \"contoso\"   # who\n\n[[tenant.domain]]\nname = \"Contoso.com\"\n\
                      mail_flow_region = \"EUR\"     # its mail enters here\n# the end\n\n[[tenant]]\nid = \"b\"\n\
                      domain = [ { name = \"b.example\" },  { name = \"c.example\" } ]\n\
                      user = [ { address = \"x@b.example\" } ]\n";
        fs::write(&path, before).expect("written");
        let at = Timestamp::parse("2026-01-02T03:04:05Z").expect("a time");
        let change =
            |domain: &str, from, to| Move { domain: Domain::parse(domain).expect("a domain"), from, to, at };
        let eur = Some(region("EUR"));
        set_mail_flow_region(&path, &change("contoso.com", eur, Some(region("NAM")))).expect("edited");
        set_mail_flow_region(&path, &change("c.example", None, eur)).expect("edited");
        set_preferred_data_location(&path, &address("X@b.example"), Some(region("NAM"))).expect("edited");
        let after = fs::read_to_string(&path).expect("there");
        assert_eq!(
            after,
            "# ours\n[[tenant]]\nid = \"contoso\"   # who\n\n[[tenant.domain]]\nname = \"Contoso.com\"\n\
             mail_flow_region = \"NAM\"     # its mail enters here\nprevious_mail_flow_region = \"EUR\"\n\
             mail_flow_region_changed_at = \"2026-01-02T03:04:05.000Z\"\n# the end\n\n[[tenant]]\nid = \"b\"\n\
             domain = [ { name = \"b.example\" },  { name = \"c.example\" , mail_flow_region = \"EUR\", \
             mail_flow_region_changed_at = \"2026-01-02T03:04:05.000Z\" } ]\n\
             user = [ { address = \"x@b.example\" , preferred_data_location = \"NAM\" } ]\n"
        );
        // Unset: the key goes, and the former region is kept.
        set_mail_flow_region(&path, &change("contoso.com", Some(region("NAM")), None)).expect("edited");
        let after = fs::read_to_string(&path).expect("there");
        assert!(
            !after.contains("\nmail_flow_region ") && after.contains("previous_mail_flow_region = \"NAM\"")
        );
        set_mail_flow_region(&path, &change("nobodys.example", None, eur)).expect_err("not there");
    }

    #[test]
    fn line_ends_and_a_byte_order_mark_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("directory.toml");
        let before = "\u{feff}# ours\r\n[[tenant]]\r\nid = \"a\"\r\n[[tenant.user]]\r\naddress = \"x@a.example\" # x\r\n";
        fs::write(&path, before).expect("written");
        set_preferred_data_location(&path, &address("x@a.example"), Some(region("NAM"))).expect("edited");
        assert_eq!(
            fs::read_to_string(&path).expect("there"),
            format!("{before}preferred_data_location = \"NAM\"\r\n")
        );
        set_preferred_data_location(&path, &address("x@a.example"), None).expect("edited");
        assert_eq!(fs::read_to_string(&path).expect("there"), before);
    }

    #[test]
    fn comments_stay_where_a_key_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("directory.toml");
        let before = "[[tenant]]\nid = \"a\"\n[[tenant.domain]]\n# above\nmail_flow_region = \"EUR\" # behind\nname = \"a.example\"\n\
                      [[tenant.user]]\naddress = \"x@a.example\" # x\n\n# since May\npreferred_data_location = \"EUR\" # home\n# the end\n";
        fs::write(&path, before).expect("written");
        let at = Timestamp::parse("2026-01-02T03:04:05Z").expect("a time");
        let domain = Domain::parse("a.example").expect("a domain");
        set_mail_flow_region(&path, &Move { domain, from: Some(region("EUR")), to: None, at })
            .expect("edited");
        set_preferred_data_location(&path, &address("x@a.example"), None).expect("edited");
        assert_eq!(
            fs::read_to_string(&path).expect("there"),
            "[[tenant]]\nid = \"a\"\n[[tenant.domain]]\n# above\n# behind\nname = \"a.example\"\n\
             previous_mail_flow_region = \"EUR\"\nmail_flow_region_changed_at = \"2026-01-02T03:04:05.000Z\"\n\
             [[tenant.user]]\naddress = \"x@a.example\" # x\n\n# since May\n# home\n# the end\n"
        );
    }

    #[test]
    fn a_users_line_changes_and_all_others_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("directory.toml");
        fs::write(&path, "[[user_file]]\npath = \"users.csv\"\n[[user_file]]\npath = \"more.csv\"\n")
            .expect("written");
        let (users, more) = (folder.path().join("users.csv"), folder.path().join("more.csv"));
        let text = "\u{feff}address, preferred_data_location ,aliases\r\n# a comment\r\na@b.example,EUR,\r\n\r\n\
                    \"b@b.example\", NAM ,\"c@b.example;d@b.example\"\r\nz@b.example,,";
        fs::write(&users, text).expect("written");
        fs::write(&more, "address\n# another\ne@b.example\nf@b.example").expect("written");
        let set = |who: &str, location| set_preferred_data_location(&path, &address(who), location);
        set("B@b.example", Some(region("GBR"))).expect("edited");
        set("z@b.example", Some(region("EUR"))).expect("edited");
        set("a@b.example", None).expect("edited");
        assert_eq!(
            fs::read_to_string(&users).expect("there"),
            "\u{feff}address, preferred_data_location ,aliases\r\n# a comment\r\na@b.example,,\r\n\r\n\
             \"b@b.example\", GBR ,\"c@b.example;d@b.example\"\r\nz@b.example,EUR,"
        );
        set("f@b.example", Some(region("EUR"))).expect("edited");
        assert_eq!(
            fs::read_to_string(&more).expect("there"),
            "address,preferred_data_location\n# another\ne@b.example,\nf@b.example,EUR"
        );
        set("g@b.example", Some(region("EUR"))).expect_err("not there");
        fs::write(&users, "aliases,address,preferred_data_location\n\"a,\"\"b\",h@b.example,\"NAM\"\n")
            .expect("written");
        for (location, written) in [(None, "\"\""), (Some(region("EUR")), "\"EUR\"")] {
            set("h@b.example", location).expect("edited");
            assert_eq!(
                fs::read_to_string(&users).expect("there"),
                format!("aliases,address,preferred_data_location\n\"a,\"\"b\",h@b.example,{written}\n")
            );
        }
    }
}
