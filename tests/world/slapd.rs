//! Slapd: a real OpenLDAP server of its own, that can be stopped, frozen, and made to refuse.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::authority::Pair;
use super::place::{Folder, free_address, is_listening};
use super::process::Process;
use super::wait::until;

/// What Active Directory has and OpenLDAP lacks, as far as mail is concerned. whenChanged is a plain
/// attribute here: who changes an entry sets it.
const SCHEMA: &str = "
attributetype ( 1.3.6.1.4.1.99999.1.1 NAME 'proxyAddresses' EQUALITY caseIgnoreMatch
    SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.99999.1.2 NAME 'preferredDataLocation' EQUALITY caseIgnoreMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
attributetype ( 1.3.6.1.4.1.99999.1.3 NAME 'userAccountControl' EQUALITY integerMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )
attributetype ( 1.3.6.1.4.1.99999.1.4 NAME 'uSNChanged' EQUALITY integerMatch ORDERING integerOrderingMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )
attributetype ( 1.3.6.1.4.1.99999.1.5 NAME 'objectGUID' EQUALITY octetStringMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 SINGLE-VALUE )
attributetype ( 1.3.6.1.4.1.99999.1.6 NAME 'mailAlternateAddress' EQUALITY caseIgnoreIA5Match
    SUBSTR caseIgnoreIA5SubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.99999.1.7 NAME 'highestCommittedUSN' EQUALITY integerMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 )
attributetype ( 1.3.6.1.4.1.99999.1.8 NAME 'dsServiceName' EQUALITY caseIgnoreMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
objectclass ( 1.3.6.1.4.1.99999.2.1 NAME 'adUser' SUP top AUXILIARY
    MAY ( proxyAddresses $ preferredDataLocation $ userAccountControl $ uSNChanged $ objectGUID $
          mailAlternateAddress ) )
";

pub const BASE: &str = "dc=example,dc=net";
const MANAGER: &str = "cn=manager,dc=example,dc=net";
/// Who the edge is: may read, and nothing else.
pub const READER: &str = "cn=landfall,dc=example,dc=net";
const PASSWORD: &str = "secret of the manager";

pub struct Slapd {
    process: Option<Process>,
    folder: Folder,
    pub address: SocketAddr,
    scheme: &'static str,
    /// What it tells of what it is asked.
    talk: &'static str,
}

impl Slapd {
    /// Speaks TLS from the first byte, with this certificate.
    pub fn start_secure(address: SocketAddr, pair: &Pair) -> Self {
        Self::start_at(address, "ldaps", Some(pair))
    }

    /// Speaks TLS when it is asked to.
    pub fn start_upgradable(address: SocketAddr, pair: &Pair) -> Self {
        Self::start_at(address, "ldap", Some(pair))
    }

    pub fn start() -> Self {
        Self::start_at(free_address(), "ldap", None)
    }

    fn start_at(address: SocketAddr, scheme: &'static str, pair: Option<&Pair>) -> Self {
        let folder = Folder::new();
        fs::create_dir(folder.join("data")).expect("our own folder");
        fs::write(folder.join("ad.schema"), SCHEMA).expect("our own folder");
        let root = "dn:\nhighestCommittedUSN: 1000\ndsServiceName: cn=ntds,cn=dc1\n";
        fs::write(folder.join("root.ldif"), root).expect("our own folder");
        fs::write(folder.join("password"), "secret of landfall\n").expect("our own folder");
        let mut slapd = Self { process: None, folder, address, scheme, talk: "stats" };
        slapd.write_settings(pair, "");
        slapd.run();
        slapd.add(&format!(
            "dn: {BASE}\nobjectClass: domain\ndc: example\n\n\
             dn: {READER}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\n\
             cn: landfall\nuserPassword: secret of landfall\n"
        ));
        slapd
    }

    /// `more` goes before the database.
    pub fn write_settings(&mut self, pair: Option<&Pair>, more: &str) {
        let here = self.folder.display();
        let tls = pair.map_or_else(String::new, |pair| {
            for (from, name) in [(&pair.cert, "cert.pem"), (&pair.key, "key.pem")] {
                fs::copy(from, self.folder.join(name)).expect("our own folder");
            }
            format!("TLSCertificateFile {here}/cert.pem\nTLSCertificateKeyFile {here}/key.pem\nTLSVerifyClient never\n")
        });
        let settings = format!(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
             include /etc/ldap/schema/inetorgperson.schema\ninclude /etc/ldap/schema/misc.schema\n\
             include {here}/ad.schema\n\
             modulepath /usr/lib/ldap\nmoduleload back_mdb\n\
             pidfile {here}/slapd.pid\nargsfile {here}/slapd.args\nrootDSE {here}/root.ldif\n\
             loglevel stats\nthreads 8\nsizelimit 20\n{tls}{more}\n\
             database mdb\nsuffix \"{BASE}\"\ndirectory {here}/data\nmaxsize 67108864\nenvflags nosync\n\
             rootdn \"{MANAGER}\"\nrootpw \"{PASSWORD}\"\n\
             index objectClass,mail,proxyAddresses,mailAlternateAddress,mailLocalAddress,modifyTimestamp eq\n\
             limits dn.exact=\"{READER}\" size.prtotal=unlimited\n\
             access to attrs=userPassword by anonymous auth by * none\n\
             access to * by dn.exact=\"{READER}\" read by * none\n"
        );
        fs::write(self.folder.join("slapd.conf"), settings).expect("our own folder");
    }

    /// Starts it again after `stop`.
    pub fn run(&mut self) {
        let mut command = Command::new("slapd");
        // With -d it stays in the foreground and says what it is asked.
        command.args(["-d", self.talk, "-h", &format!("{}://{}/", self.scheme, self.address), "-f"]);
        command.arg(self.folder.join("slapd.conf"));
        command.env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
        let mut process = Process::start(&mut command, &self.folder.join("log"));
        let address = self.address;
        until("slapd to listen", || {
            assert!(process.exited().is_none(), "slapd ended:\n{}", self.log());
            is_listening(address).then_some(())
        });
        self.process = Some(process);
    }

    /// `[directory]` for an edge, in clear text.
    pub fn settings(&self) -> String {
        format!(
            "[directory]\nsource = \"ldap\"\nurl = \"{}://{}\"\ntls = \"off\"\nlookup_deadline = \"5s\"\n\
             password_file = \"{}\"\n[directory.ldap]\nbind_dn = \"{READER}\"\nbase_dn = \"{BASE}\"\n",
            self.scheme,
            self.address,
            self.folder.join("password").display()
        )
    }

    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    /// Adds entries, as LDIF.
    pub fn add(&self, ldif: &str) {
        self.tool("ldapadd", &[], ldif);
    }

    /// Adds entries that nobody has changed since long: who follows changes is told nothing of them.
    pub fn add_long_ago(&self, ldif: &str) {
        let long_ago = "modifyTimestamp: 20200101000000Z\n";
        let entries = ldif.split_inclusive("\n\n").map(|entry| format!("{}\n{long_ago}\n", entry.trim_end()));
        // The server sets this attribute itself, but for whoever asks it to relax its rules.
        self.tool("ldapadd", &["-e", "relax"], &entries.collect::<String>());
    }

    /// Changes entries, as LDIF with `changetype`.
    pub fn modify(&self, ldif: &str) {
        self.tool("ldapmodify", &[], ldif);
    }

    fn tool(&self, tool: &str, more: &[&str], ldif: &str) {
        let mut command = Command::new(tool);
        command.args([
            "-x",
            "-H",
            &format!("{}://{}/", self.scheme, self.address),
            "-D",
            MANAGER,
            "-w",
            PASSWORD,
        ]);
        command.args(more).env("LDAPTLS_REQCERT", "never");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("ldap-utils is installed; tests/run installs what is missing");
        child.stdin.take().expect("it was piped").write_all(ldif.as_bytes()).expect("it reads");
        let done = child.wait_with_output().expect("it ends by itself");
        assert!(done.status.success(), "{tool}: {}\n{ldif}", String::from_utf8_lossy(&done.stderr));
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("slapd runs")
    }

    /// Says nothing any more of what it is asked.
    pub fn hush(&mut self) {
        self.stop();
        self.talk = "none";
        self.run();
    }

    pub fn stop(&mut self) {
        self.process().signal("TERM");
        self.process().wait();
        self.process = None;
    }

    /// Connections stay open, and nothing answers.
    pub fn freeze(&mut self) {
        self.process().freeze();
    }

    pub fn thaw(&mut self) {
        self.process().thaw();
    }

    /// Shows this certificate from now on.
    pub fn show(&mut self, pair: &Pair) {
        self.stop();
        self.write_settings(Some(pair), "");
        self.run();
    }

    /// Lets nobody in any more, and then everybody who should be.
    pub fn refuse(&mut self, refused: bool) {
        self.stop();
        self.write_settings(None, if refused { "disallow bind_simple" } else { "" });
        self.run();
    }
}

/// An entry in Active Directory's manner. The first proxy address should be the primary one.
pub fn ad_user(cn: &str, proxies: &[&str], more: &str) -> String {
    let proxies: String = proxies.iter().map(|proxy| format!("proxyAddresses: {proxy}\n")).collect();
    format!(
        "dn: cn={cn},{BASE}\nobjectClass: inetOrgPerson\nobjectClass: adUser\ncn: {cn}\nsn: {cn}\n{proxies}{more}\n"
    )
}
