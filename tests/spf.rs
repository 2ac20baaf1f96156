//! SPF: the published suite for RFC 7208, every case, over DNS packets and the resolver that the daemon uses.
//!
//! The server here is a small one of its own, because the suite has cases that no real server will serve:
//! names that never answer, aliases that go in circles. `tests/authentication.rs` asks a real one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, PTR, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use landfall::auth::spf::{Claim, check};
use landfall::clock::Clock;
use landfall::dns::{Meter, Resolver, Settings};

const SUITE: &str = include_str!("spf/rfc7208-tests.json");

/// What one name has, and whether what it does not have is asked for in vain.
#[derive(Default)]
struct Node {
    records: Vec<RData>,
    silent: bool,
}

struct Zone(HashMap<Name, Node>);

impl Zone {
    fn read(zone: &Value) -> Self {
        let names = zone.as_object().expect("a zone");
        Self(names.iter().map(|(name, entries)| (name_of(name), Node::read(entries))).collect())
    }

    /// `None`: no answer at all.
    fn answer(&self, asked: &[u8]) -> Option<Vec<u8>> {
        let query = Message::from_vec(asked).expect("a DNS query");
        let question = query.queries[0].clone();
        let mut response = Message::response(query.metadata.id, OpCode::Query);
        response.metadata.authoritative = true;
        response.metadata.recursion_desired = query.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.add_query(question.clone());
        let mut name = question.name().clone();
        // Aliases are followed as recursive servers do; a circle ends somewhere.
        for _ in 0..4 {
            let Some(node) = self.0.get(&name.to_lowercase()) else {
                response.metadata.response_code = ResponseCode::NXDomain;
                break;
            };
            let of_kind = |data: &&RData| {
                data.record_type() == question.query_type() || data.record_type() == RecordType::CNAME
            };
            let found: Vec<&RData> = node.records.iter().filter(of_kind).collect();
            if found.is_empty() && node.silent {
                return None;
            }
            for data in &found {
                response.add_answer(Record::from_rdata(name.clone(), 60, (*data).clone()));
            }
            let Some(RData::CNAME(alias)) = found.first() else { break };
            name = alias.0.clone();
        }
        Some(response.to_vec().expect("a response"))
    }
}

impl Node {
    /// The suite writes what the TXT records say as "SPF", unless it writes TXT records too.
    fn read(entries: &Value) -> Self {
        let entries = entries.as_array().expect("the records of a name");
        let has_txt = entries.iter().any(|entry| entry.get("TXT").is_some());
        let mut node = Self::default();
        for entry in entries {
            let Some(entry) = entry.as_object() else {
                assert_eq!(entry, "TIMEOUT");
                node.silent = true;
                continue;
            };
            for (kind, value) in entry {
                match kind.as_str() {
                    "TXT" if value == "NONE" => {}
                    "TXT" => node.records.push(txt(value)),
                    "SPF" if has_txt => {}
                    "SPF" => node.records.push(txt(value)),
                    "A" => node.records.push(RData::A(A(parse(value)))),
                    "AAAA" => node.records.push(RData::AAAA(AAAA(parse(value)))),
                    "MX" => {
                        let preference = value[0].as_u64().expect("a preference") as u16;
                        node.records.push(RData::MX(MX::new(preference, name_of(text(&value[1])))));
                    }
                    "PTR" => node.records.push(RData::PTR(PTR(name_of(text(value))))),
                    "CNAME" => node.records.push(RData::CNAME(CNAME(name_of(text(value))))),
                    other => panic!("the suite has no {other} records"),
                }
            }
        }
        node
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn parse<T: std::str::FromStr>(value: &Value) -> T {
    text(value).parse().ok().expect("an address")
}

fn txt(value: &Value) -> RData {
    let strings: Vec<&str> = match value {
        // No packet can have it, nor any server serve it: at least one string (RFC 1035 §3.3.14).
        Value::Array(none) if none.is_empty() => vec![""],
        Value::Array(strings) => strings.iter().map(text).collect(),
        one => vec![text(one)],
    };
    RData::TXT(TXT::from_bytes(strings.iter().map(|string| string.as_bytes()).collect()))
}

/// Labels of any bytes.
fn name_of(text: &str) -> Name {
    let text = text.strip_suffix('.').unwrap_or(text);
    let labels = text.split('.').filter(|label| !label.is_empty()).map(str::as_bytes);
    Name::from_labels(labels).expect("a name").to_lowercase()
}

/// Serves a zone over UDP and TCP until the set is dropped.
async fn serve(zone: Zone, tasks: &mut JoinSet<()>) -> SocketAddr {
    let zone = Arc::new(zone);
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = tcp.local_addr().expect("its address");
    let udp = UdpSocket::bind(address).await.expect("the same port for UDP");
    let by_tcp = Arc::clone(&zone);
    tasks.spawn(async move {
        let mut packet = vec![0; 65535];
        loop {
            let (length, from) = udp.recv_from(&mut packet).await.expect("a packet");
            if let Some(mut answer) = zone.answer(&packet[..length]) {
                if answer.len() > 1232 {
                    let full = Message::from_vec(&answer).expect("our own answer");
                    answer = full.truncate().to_vec().expect("a response");
                }
                udp.send_to(&answer, from).await.expect("the answer is sent");
            }
        }
    });
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.expect("a connection");
            let zone = Arc::clone(&by_tcp);
            tokio::spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut packet = vec![0; length.into()];
                    stream.read_exact(&mut packet).await.expect("a whole query");
                    let Some(answer) = zone.answer(&packet) else { return };
                    stream.write_u16(answer.len() as u16).await.expect("the answer is sent");
                    stream.write_all(&answer).await.expect("the answer is sent");
                }
            });
        }
    });
    address
}

fn resolver(server: SocketAddr) -> Resolver {
    let settings = Settings {
        servers: vec![server],
        timeout: Duration::from_millis(200),
        deadline: Duration::from_secs(5),
        dnssec: false,
        ..Settings::default()
    };
    Resolver::new(settings, Meter::default())
}

/// Runs one case; what is wrong with it, if anything is.
async fn run(id: &str, case: &Value, resolver: &Resolver) -> Option<String> {
    let helo = text(&case["helo"]);
    let (local_part, domain) = match text(&case["mailfrom"]).rsplit_once('@') {
        Some(("", domain)) => ("postmaster", domain),
        Some(parts) => parts,
        None => ("postmaster", helo),
    };
    let ip: IpAddr = parse(&case["host"]);
    let claim = Claim { ip, local_part, domain, helo, receiver: "mx.receiver.example" };
    let verdict = check(resolver, &claim, Clock::System.now()).await;
    let result = verdict.result.to_string();
    let allowed: Vec<&str> = match &case["result"] {
        Value::Array(allowed) => allowed.iter().map(text).collect(),
        one => vec![text(one)],
    };
    if !allowed.contains(&result.as_str()) {
        return Some(format!("{id}: {result} ({:?}) where {allowed:?} is due", verdict.problem));
    }
    // The default explanation is the receiver's to write: we have none.
    let due = case["explanation"].as_str().map(|due| if due == "DEFAULT" { "" } else { due });
    let given = verdict.explanation.as_deref().unwrap_or_default();
    (due.is_some_and(|due| due != given)).then(|| format!("{id}: says {given:?} where {due:?} is due"))
}

#[tokio::test]
async fn every_case_of_the_published_suite_passes() {
    let scenarios: Vec<Value> = serde_json::from_str(SUITE).expect("the suite is JSON");
    let mut servers = JoinSet::new();
    let mut wrong = Vec::new();
    let mut cases = 0;
    for scenario in &scenarios {
        let server = serve(Zone::read(&scenario["zonedata"]), &mut servers).await;
        let resolver = resolver(server);
        let tests = scenario["tests"].as_object().expect("the cases of a scenario");
        cases += tests.len();
        for (id, case) in tests {
            wrong.extend(run(id, case, &resolver).await);
        }
    }
    assert!(wrong.is_empty(), "{} of {cases} cases:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(cases, 203, "the suite is whole");
}
